"""An export is the model: transformers computes the same logits from it, the same ids from its
tokenizer, and everything that can go wrong leaves nothing behind.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysparse import counts, ladder
from raysparse.console import cli
from raysparse.data.tokenizer import SEPARATOR, ByteTokenizer, train_bpe
from raysparse.files import Folder
from raysparse.model.llama import Llama
from raysparse.release import evaluate
from raysparse.release.card import card, engine_warnings
from raysparse.release.export import export
from raysparse.release.llama_names import projection
from raysparse.release.opened import OpenedModel, open_model
from raysparse.sparsity.storage import INIT_STD, SparseWeights
from raysparse.spec import TrialSpec
from raysparse.units import amount
from tests.conftest import small_trial
from tests.release.models import place

transformers = pytest.importorskip("transformers", reason="transformers is what an export is compared with")

PAGE = Path(__file__).parents[2] / "docs" / "release.md"
KINDS = {
    "dense": {"method": "dense"}, "static": {"method": "static"}, "set": {"method": "set"}, "rigl": {"method": "rigl"},
    "smet": {}, "smet_grad": {"method": "smet_grad"}, "runs": {"sparsity": {"layout": "run", "block": 4}},
    "tiles": {"sparsity": {"layout": "tile", "block": 4}}, "ERK": {"sparsity": {"distribution": "erk"}},
    "balanced tiles": {"sparsity": {"layout": "tile", "block": 4, "balanced": True}},
    "odd width": {"model": ladder.model("laptop-xs", vocab_size=257, context=40).replace(hidden=36, intermediate=51)},
    **{
        name: {"model": ladder.model(name, vocab_size=257, context=64).replace(layers=2)}
        for name in ("laptop-l", "dc-20m", "smet-60m")
    },
}  # fmt: skip


def made(spec: TrialSpec, tokenizer=None) -> OpenedModel:
    """A model that was never trained, with weights of a size at which everything counts: products
    keep the scale of what goes in, and logits are about 1.
    """
    weights = SparseWeights(spec)
    model = Llama(spec, weights).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for norm in model.norms():
        norm.data.add_(0.2 * torch.randn(norm.shape, generator=generator))
    width = spec.model.hidden
    model.embedding.data.mul_(1 / INIT_STD)
    model.head.data.mul_(1 / INIT_STD / width**0.5)
    weights.arena.values.mul_(0.7 / INIT_STD / (width * spec.sparsity.density) ** 0.5)
    opened = OpenedModel(spec, model, weights, Folder("nowhere"), spec.steps, None, False)
    opened.tokenizer = tokenizer or ByteTokenizer()
    return opened


def logits(opened: OpenedModel, tokens: torch.Tensor) -> torch.Tensor:
    hidden = opened.model.hidden(tokens)
    return (hidden @ opened.model.head.to(hidden.dtype).t()).float()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_computes_the_same(kind, precision, tmp_path):
    opened = made(small_trial(precision=precision, **KINDS[kind]))
    export(opened, str(tmp_path / "out"), dtype=precision)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=dtype).eval()
    context = opened.spec.model.context
    tokens = torch.randint(0, 257, (2, context), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = theirs(tokens).logits.float()
    ours = logits(opened, tokens)
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert (found - ours).abs().max() <= tolerance * ours.abs().max()
    assert ours.std() > 0.5
    held = {name: tensor for name, tensor in theirs.state_dict().items() if "proj" in name}
    for name, matrix in opened.weights.matrices.items():
        ones = torch.ones_like(matrix.values)
        active = matrix.layout.expand(ones, torch.empty(matrix.shape, dtype=ones.dtype)).bool()
        weight = held[projection(name)]
        assert torch.equal(weight[active], matrix.values if matrix.layout.kind != "tile" else weight[active])
        assert not weight[~active].any()


def test_saved_by_transformers_and_back_nothing_is_lost(run, tmp_path):
    folder = export(open_model(run.uri), str(tmp_path / "one"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert again.generation_config.eos_token_id == again.config.eos_token_id == 256
    text = f"the tree ä 木 {SEPARATOR}"
    there = transformers.AutoTokenizer.from_pretrained(tmp_path / "two")
    assert there(text).input_ids == tokenizer(text).input_ids == list(text.encode())


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def tokenizers(request, tmp_path_factory):
    """(ours, the one that transformers loads from an export)."""
    ours = ByteTokenizer()
    if request.param == "bpe":
        ours = train_bpe("bpe:400", 400, ["the tree of a small house, def f(x):\n    return ä 木 " * 30])
    spec = small_trial()
    opened = made(spec.replace(model=spec.model.replace(vocab_size=ours.vocab_size)), ours)
    folder = export(opened, str(tmp_path_factory.mktemp("tokenizer") / "out"))
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


TEXT = st.text(alphabet=st.one_of(st.sampled_from("the tre\n\t ä木😀'"), st.characters(codec="utf-8")), max_size=60)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXT, st.booleans())
def test_the_ids_of_any_text_are_the_same(tokenizers, text, spelled_out):
    ours, theirs = tokenizers
    text += SEPARATOR * spelled_out
    [expected] = ours.encode_batch([text])
    assert theirs(text).input_ids == expected.tolist()
    assert theirs.decode(expected.tolist()) == text
    assert theirs.eos_token_id == theirs.bos_token_id == ours.separator


def test_an_export_is_opened_like_any_model(run, spec, corpus, tmp_path, capsys):
    assert cli.main(["export", run.uri, str(tmp_path / "out")]) == 0
    assert "the licence in its README.md is yours" in capsys.readouterr().out
    one, two = open_model(place(run, spec)), open_model(str(tmp_path / "out"))
    assert torch.equal(one.weights.arena.values, two.weights.arena.values)
    losses = [evaluate.on_corpus(opened, corpus, 5).scores.loss for opened in (one, two)]
    assert losses[0] == losses[1]
    assert two.row == one.row
    with pytest.raises(ValueError, match="is an export and has no tokens of its own; name a --corpus"):
        evaluate.held_out(two)
    assert cli.main(["evaluate", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("layout", [{"layout": "run", "block": 4}, {"layout": "tile", "block": 4}, {}])
def test_masks_of_every_layout_come_back(layout, tmp_path):
    opened = made(small_trial(sparsity=layout, precision="bf16"))
    again = open_model(str(export(opened, str(tmp_path / "out"), dtype="bf16")))
    for name, matrix in opened.weights.matrices.items():
        other = again.weights.matrices[name]
        assert torch.equal(matrix.layout.mask, other.layout.mask)
        assert torch.equal(matrix.values, other.values)


def test_the_reader_in_the_docs_reads_the_side_file(tmp_path):
    """An active weight that is 0 is still active there."""
    opened = made(small_trial())
    opened.weights.arena.values[::7] = 0.0
    folder = export(opened, str(tmp_path / "out"))
    [reader] = re.findall(r"```python\n(def read_sparse.*?)```", PAGE.read_text(), re.DOTALL)
    assert reader.count("\n") <= 10 + 4  # ten lines of function, and its imports
    space: dict = {}
    exec(reader, space)
    found = dict(space["read_sparse"](folder / "sparse.safetensors"))
    from safetensors.torch import load_file

    dense = load_file(folder / "model.safetensors")
    assert len(found) == len(opened.weights.matrices)
    for name, (weight, active) in found.items():
        assert torch.equal(weight, dense[name])
        assert int(active.sum()) == round(0.25 * active.numel())


def test_the_average_of_the_weights_can_be_exported(run, spec, tmp_path):
    averaged = export(open_model(run.uri, average=True), str(tmp_path / "average"))
    assert not torch.equal(open_model(str(averaged)).model.head, open_model(run.uri).model.head)
    assert "averaged weights" in (averaged / "README.md").read_text()
    plain = export(open_model(run.uri), str(tmp_path / "plain"))
    with pytest.raises(ValueError, match="holds the weights as they are, not their average"):
        open_model(str(plain), average=True)


def test_the_card_says_what_was_trained(run, spec, tmp_path):
    [text] = [(export(open_model(run.uri), str(tmp_path / "out")) / "README.md").read_text()]
    for said in ("license:  # yours to say", "2,049 unique", "2.6 epochs", "density 0.25", spec.trial_id,
                 "nats per token", "bits per byte"):  # fmt: skip
        assert said in text


def test_the_card_counts_the_training_that_happened():
    """Not the plan's of a trial that was stopped; and a parent's training is told of, not added."""
    spec = small_trial()
    opened = made(spec.replace(parent="0123456789abcdef:average"))
    opened.step = 10
    text = card(opened, "fp32", "raysparse export")
    assert f"| steps | 10 of {spec.steps} |" in text
    assert f"2,049 unique, {2.6 * 10 / spec.steps:.3g} of 2.6 epochs, 1,280 in all" in text
    assert f"| compute | {amount(counts.flops(spec)[0] * 10 / spec.steps)} active FLOPs |" in text
    parent = "`0123456789abcdef`, its averaged weights; its tokens and FLOPs are not counted here"
    assert f"| continued from | {parent} |" in text
    assert "continued from" not in card(made(spec), "fp32", "raysparse export")


def test_what_engines_will_not_take_is_said():
    assert engine_warnings(ladder.model("smet-7b")) == []
    said = " ".join(engine_warnings(ladder.model("smet-1b")))
    assert "intermediate 5461" in said
    assert "heads" not in said
    assert any("heads of 16" in line for line in engine_warnings(ladder.model("laptop-xs")))


def test_nothing_is_in_the_way_of_an_export(run, tmp_path):
    opened = open_model(run.uri)
    place = tmp_path / "out"
    place.mkdir()  # empty: as good as absent
    export(opened, str(place))
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    with pytest.raises(ValueError, match="holds an export already; choose another, or say --overwrite"):
        export(opened, str(place))
    (place / "config.json").write_text("old")
    export(opened, str(place), overwrite=True)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    for where, message in ((str(home), "exists and is not an export"), ("s3://bucket/out", "expected a folder on a")):
        with pytest.raises(ValueError, match=message):
            export(opened, where, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


@pytest.mark.parametrize("bytes_left", [100, 5_000, 20_000])
def test_a_disk_that_fills_leaves_nothing_behind(bytes_left, run, tmp_path):
    """A limit on the size of a file stands for the disk: writing fails in the same place."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_left}, {bytes_left}))\n"
        "from raysparse.console.cli import main\n"
        f"sys.exit(main(['export', {run.uri!r}, {str(tmp_path / 'deep' / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: FOLDER is {str(tmp_path / 'deep' / 'out')!r}, which cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_damaged_export_is_told(run, tmp_path, capsys):
    folder = export(open_model(run.uri), str(tmp_path / "out"))
    (folder / "sparse.safetensors").unlink()
    assert cli.main(["sample", str(folder)]) == 2
    assert "lacks sparse.safetensors; export the model again" in capsys.readouterr().err
    (folder / "model.safetensors").write_bytes(b"no")
    (folder / "sparse.safetensors").write_bytes(b"no")
    assert cli.main(["sample", str(folder)]) == 2
    assert "is not a safetensors file" in capsys.readouterr().err
    about = json.loads((folder / "raysparse.json").read_text())
    about["spec"]["data"]["tokenizer"] = "bpe:300"
    (folder / "raysparse.json").write_text(json.dumps(about))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"lacks tokenizer\.json"):
        _ = OpenedModel(TrialSpec.from_dict(about["spec"]), None, None, Folder(folder), 1, None, False, True).tokenizer


def test_generating_with_transformers_is_generating_here(run, tmp_path):
    from raysparse.release.sample import SamplingSpec, generate

    opened = open_model(run.uri)
    folder = export(opened, str(tmp_path / "out"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = torch.tensor([[256, *b"the tree"]])
    found = theirs.generate(prompt, max_new_tokens=15, do_sample=False)[0, prompt.shape[1] :].tolist()
    ours = list(generate(opened, prompt[0].tolist(), SamplingSpec(temperature=0), 15))
    assert np.array_equal(found[: len(ours)], ours)
    assert len(ours) > 3
