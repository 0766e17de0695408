"""An export as a GGUF file of llama.cpp's architecture "llama", written by the `gguf` package from
the export's own files and read by transformers, which knows the format on its own.

So names, shapes, settings and numbers of an export suffice for that format. Not checked: llama.cpp
itself and its converter, which no package index holds, and the tokenizer.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysparse.release.export import export
from tests.conftest import small_trial
from tests.release.test_export import logits, made

gguf = pytest.importorskip("gguf", reason="gguf writes the file")
transformers = pytest.importorskip("transformers", reason="transformers reads it")
reading = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys as that architecture has them: the two that turn together are
    neighbours, where ours are half a head apart.
    """
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def convert(folder: Path, file: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, weight in load_file(folder / "model.safetensors").items():
        is_turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        stored = interleaved(weight, config["num_attention_heads"]) if is_turned else weight
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("method", ["dense", "smet"])
def test_an_export_as_gguf_is_the_model(method, tmp_path):
    opened = made(small_trial(method))
    export(opened, str(tmp_path / "model"), dtype="fp32")
    convert(tmp_path / "model", tmp_path / "model.gguf")
    read = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert sum(int((data != 0).sum()) for data in read.values()) == sum(int((w != 0).sum()) for w in written.values())
    theirs = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(tmp_path, gguf_file="model.gguf")
    ).eval()
    found = reading.load_gguf_checkpoint(str(tmp_path / "model.gguf"), return_tensors=True, model_to_load=theirs)
    theirs.load_state_dict(found["tensors"])
    tokens = torch.randint(0, 257, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, logits(opened, tokens), rtol=1e-4, atol=1e-4)
