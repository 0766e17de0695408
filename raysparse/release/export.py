"""A model as a folder that other tools open: a dense `LlamaForCausalLM` in safetensors, tokenizer
files, settings, a card, and the sparse weights beside it (`exported`).

Everything is checked before anything is written: what is there already, what is missing here, what
engines will not take. The folder is made under another name beside its place, synced and renamed,
so it is whole or absent; whatever goes wrong on the way, a full disk too, leaves nothing behind.
What is overwritten must itself be an export, and stays until the new one is whole.

Left out: uploading, other formats (llama.cpp's converter takes this folder), and more than one file
of weights.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raysparse.model.llama import NORM_EPS, ROTARY_BASE
from raysparse.record import require_choice
from raysparse.release.card import card
from raysparse.release.exported import ABOUT, INSTALL, SPARSE, WEIGHTS
from raysparse.release.llama_names import dense_parameters, projection
from raysparse.release.opened import OpenedModel
from raysparse.release.sample import SamplingSpec
from raysparse.release.tokenizer_files import tokenizer_files

Written = Literal["fp32", "bf16"]
DTYPE: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
TORCH_NAME = {"fp32": "float32", "bf16": "bfloat16"}


def export(opened: OpenedModel, place: str, *, dtype: str = "fp32", overwrite: bool = False, command: str = "") -> Path:
    """Write the model to the folder `place` and return it; `command`: what the card says it was
    made by.

    Raises ValueError before anything is written: a folder that is in the way, a missing tokenizer,
    a library that is not installed. Raises OSError when the disk is full; nothing is left then.
    """
    require_choice("--dtype", dtype, Written)
    folder = checked_place(place, overwrite)
    texts = {
        **tokenizer_files(opened.tokenizer, opened.spec.model.context),
        "config.json": _json(config(opened, dtype)),
        "generation_config.json": _json(generation(opened)),
        "README.md": card(opened, dtype, command),
        ABOUT: _json(about(opened, dtype)),
    }
    save = _saver()
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.mkdir(parents=True)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
        save(weights(opened, DTYPE[dtype]), new / WEIGHTS, {"format": "pt"})
        if opened.spec.sparsity.density < 1.0:
            save(*side_file(opened, DTYPE[dtype], new / SPARSE))
        mode = (new / ABOUT).stat().st_mode  # safetensors makes files that only their owner reads
        for file in new.iterdir():
            file.chmod(mode)
            _sync(file)
        _sync(new)
        _put(new, folder)
    except OSError as error:
        said = error.strerror or error
        raise OSError(f"FOLDER is {place!r}, which cannot be written: {said}; no part of the export is left") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def checked_place(place: str, overwrite: bool) -> Path:
    """Where to write. Raises ValueError when something is in the way."""
    if "://" in place:
        raise ValueError(f"FOLDER is {place!r}, expected a folder on a local disk; copy it from there")
    folder = Path(place).expanduser().absolute()
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return folder
    if not (folder / ABOUT).is_file():
        raise ValueError(f"FOLDER is {place!r}, which exists and is not an export; choose another folder")
    if not overwrite:
        raise ValueError(f"FOLDER is {place!r}, which holds an export already; choose another, or say --overwrite")
    return folder


def weights(opened: OpenedModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every weight under its name in transformers; inactive weights are 0."""
    found = {name: _cpu(p.data, dtype) for name, p in dense_parameters(opened.model)}
    for name, matrix in opened.weights.matrices.items():
        dense = torch.empty(matrix.shape, dtype=matrix.values.dtype, device=matrix.values.device)
        found[projection(name)] = _cpu(matrix.layout.expand(matrix.values, dense), dtype)
    return found


def side_file(opened: OpenedModel, dtype: torch.dtype, path: Path) -> tuple[dict[str, Tensor], Path, dict[str, str]]:
    """Which weights are active and what they are, a bit a weight (`exported` has the format):
    tensors, path, metadata.
    """
    found, shapes = {}, {}
    for name, matrix in opened.weights.matrices.items():
        theirs = projection(name)
        empty = torch.empty(matrix.shape, device=matrix.values.device)
        active = matrix.layout.expand(torch.ones_like(matrix.values), empty).bool().cpu()
        dense = matrix.layout.expand(matrix.values, empty.to(matrix.values.dtype))
        shapes[theirs] = list(matrix.shape)
        found[f"{theirs}.bitmask"] = torch.from_numpy(np.packbits(active.numpy(), bitorder="little"))
        found[f"{theirs}.values"] = _cpu(dense, dtype)[active]
    return found, path, {"shapes": json.dumps(shapes)}


def _cpu(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).clone().contiguous()


def config(opened: OpenedModel, dtype: str) -> dict[str, Any]:
    """config.json. The rotary base is said twice: transformers moved it in version 5."""
    model, separator = opened.spec.model, opened.tokenizer.separator
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": model.hidden,
        "intermediate_size": model.intermediate, "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads, "num_key_value_heads": model.heads,
        "head_dim": model.hidden // model.heads, "vocab_size": model.vocab_size,
        "max_position_embeddings": model.context, "rms_norm_eps": NORM_EPS, "rope_theta": ROTARY_BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE}, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
        "bos_token_id": separator, "eos_token_id": separator, "torch_dtype": TORCH_NAME[dtype],
        "dtype": TORCH_NAME[dtype], "use_cache": True,
    }  # fmt: skip


def generation(opened: OpenedModel) -> dict[str, Any]:
    """generation_config.json: what `raysparse sample` does by default."""
    default, separator = SamplingSpec(), opened.tokenizer.separator
    return {
        "do_sample": True, "temperature": default.temperature, "top_k": default.top_k, "top_p": default.top_p,
        "bos_token_id": separator, "eos_token_id": separator, "pad_token_id": separator,
    }  # fmt: skip


def about(opened: OpenedModel, dtype: str) -> dict[str, Any]:
    """raysparse.json: enough to open the model again, and to know where it came from."""
    return {
        "spec": opened.spec.to_dict(), "step": opened.step, "row": opened.row, "average": opened.average,
        "dtype": dtype, "separator": opened.tokenizer.separator, "from": opened.where.uri,
    }  # fmt: skip


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _saver() -> Any:
    """Writes tensors to a safetensors file; a disk that is full is an OSError like any other."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"`raysparse export` needs safetensors ({error}): {INSTALL}") from error

    def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        try:
            save_file(tensors, str(path), metadata)
        except SafetensorError as error:
            raise OSError(f"cannot write {path.name}: {error}") from error

    return save


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _put(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what stood there goes when the new one is in its place."""
    if not folder.exists():
        new.rename(folder)
    else:
        old = new.with_suffix(".old")
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old)
    _sync(folder.parent)
