"""A trained model measured: the number of its row, errors that a bootstrap confirms, documents by
themselves, and what it remembers.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from raysparse.console import cli
from raysparse.data.order import Batches
from raysparse.data.reader import Document
from raysparse.release import evaluate
from raysparse.release.opened import open_model
from raysparse.release.scores import Scores, score_documents, windows
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.sweep.plan import Plan
from tests.conftest import small_trial
from tests.release.models import place, trained

KINDS = {
    "dense": {"method": "dense"},
    "elements, bf16": {"method": "rigl", "precision": "bf16"},
    "runs, bf16 products": {"method": "set", "sparsity": {"layout": "run", "block": 4}, "precision": "bf16_master"},
    "tiles by ERK": {"method": "smet_grad", "sparsity": {"layout": "tile", "block": 4, "distribution": "erk"}},
    "pieces of words": {"method": "static", "bpe": True},
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, corpus):
    specs = {}
    for name, change in KINDS.items():
        change = dict(change)
        tokenizer = "bpe:300" if change.pop("bpe", False) else "bytes"
        spec = small_trial(data={"corpus": corpus, "tokenizer": tokenizer}, evaluations=1, **change)
        specs[name] = spec.replace(model=spec.model.replace(vocab_size=300 if tokenizer != "bytes" else 257))
    return trained(tmp_path_factory.mktemp("kinds"), "kinds", *specs.values()), specs


@pytest.mark.parametrize("kind", KINDS)
def test_the_validation_loss_of_the_row_is_found_again(kind, kinds):
    run, specs = kinds
    opened = open_model(place(run, specs[kind]))
    measured = evaluate.held_out(opened)
    assert opened.row is not None
    assert measured.scores.loss == pytest.approx(opened.row["validation_loss"], abs=1e-6)
    assert measured.bits_per_byte == pytest.approx(opened.row["validation_bits_per_byte"], abs=1e-6)


def test_the_average_of_the_weights_is_another_model(run, spec):
    [row] = Results(run).rows()
    measured = evaluate.held_out(open_model(place(run, spec), average=True))
    assert measured.scores.loss == pytest.approx(row["average_validation_loss"], abs=1e-6)
    assert row["average_validation_loss"] != row["validation_loss"]


def test_every_way_to_name_a_model_opens_the_same(run, spec):
    trial = place(run, spec)
    latest = run.trial(spec.trial_id).read_json("checkpoint/latest.json")["file"]
    whole = open_model(trial).weights.arena.values
    for other in (f"{trial}/", f"{trial}/checkpoint", f"{trial}/checkpoint/{latest}", run.uri):
        assert torch.equal(open_model(other).weights.arena.values, whole)


def test_a_sweep_means_the_model_that_was_trained_from_its_answer(tmp_path, spec):
    storage = tmp_path / "my runs"
    quick = spec.replace(data=spec.data.replace(epochs=0.1), evaluations=1)
    sweep = trained(storage, "grid", quick, quick.replace(seed=1))
    with pytest.raises(ValueError, match=r"is not trained yet: `raysparse train --from '.*/my runs/grid'`"):
        open_model(sweep.uri)
    model = quick.replace(seed=7)
    trained(storage, "grid-model", model, quick.replace(seed=8))
    assert open_model(sweep.uri).spec == model


def test_a_recommendation_that_was_stopped_does_not_pass_for_the_one_before(tmp_path, spec):
    quick = spec.replace(data=spec.data.replace(epochs=0.1), evaluations=1)
    sweep = RunFolder(f"{tmp_path}/runs/grid")
    Plan(specs=(quick, quick.replace(seed=1))).save(sweep)
    models = trained(tmp_path / "runs", "grid-model", quick.replace(seed=7))
    Plan(specs=(quick.replace(seed=8), quick.replace(seed=7))).save(models)
    with pytest.raises(ValueError, match=f"is trial {quick.replace(seed=8).trial_id}, which has not ended"):
        open_model(sweep.uri)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is an empty folder; expected a trial"),
        (lambda folder: folder.rmdir(), "does not exist; expected a trial"),
        (lambda folder: (folder / "config.json").write_text("{}"), "is of another kind; expected a trial"),
        (lambda folder: (folder / "spec.json").write_text("{}"), "has no checkpoint; train it first"),
    ],
)
def test_what_is_no_model_is_told_in_one_line(make, message, tmp_path, capsys):
    make(tmp_path)
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_model_without_its_tokens_needs_a_corpus(tmp_path, run, spec, corpus):
    import shutil

    alone = tmp_path / "runs" / "one"
    shutil.copytree(run.local_path, alone)
    opened = open_model(str(alone))
    with pytest.raises(ValueError, match="there is no token store in"):
        evaluate.held_out(opened)
    assert evaluate.on_corpus(opened, corpus, 3).scores.loss > 0


@pytest.mark.parametrize("grouped", [False, True])
def test_the_standard_error_is_that_of_a_bootstrap(grouped):
    """Documents of very different lengths, whose losses share something within a group."""
    numbers = np.random.default_rng(3)
    groups = np.repeat(np.arange(60), 4)
    tokens = numbers.integers(20, 400, len(groups))
    rates = 2.0 + 0.3 * numbers.normal(size=60)[groups] + 0.2 * numbers.normal(size=len(groups))
    scores = Scores(rates * tokens, tokens, tokens, tuple(map(str, groups)) if grouped else ("",) * len(groups))
    losses = []
    for _ in range(4000):
        if grouped:
            chosen = (4 * numbers.integers(0, 60, 60)[:, None] + np.arange(4)).ravel()
        else:
            chosen = numbers.integers(0, len(groups), len(groups))
        losses.append(scores.nats[chosen].sum() / tokens[chosen].sum())
    assert scores.error == pytest.approx(np.std(losses), rel=0.06)


def test_errors_are_wider_where_groups_hold_documents_that_are_alike():
    tokens = np.full(40, 100)
    nats = np.repeat(np.linspace(1.0, 3.0, 4), 10) * tokens
    apart = Scores(nats, tokens, tokens, ("",) * 40)
    together = Scores(nats, tokens, tokens, tuple(str(n // 10) for n in range(40)))
    assert together.error > 2 * apart.error
    assert together.of_group("0").loss == 1.0
    assert math.isnan(Scores(nats[:1], tokens[:1], tokens[:1], ("",)).error)


@given(st.integers(0, 100), st.integers(1, 20))
def test_windows_score_every_token_once_behind_what_stands_before_it(length, context):
    tokens = np.arange(1, length + 1)
    scored = []
    for inputs, targets in windows(tokens, 0, context):
        assert len(targets) <= len(inputs) <= context
        assert list(inputs) == list(range(int(targets[-1]) - len(inputs), int(targets[-1])))
        scored += list(targets)
    assert scored == list(tokens)


def test_documents_by_themselves_equal_one_token_at_a_time(run, spec):
    """The likelihood of each token from a pass of its own over the tokens of its window."""
    opened = open_model(place(run, spec))
    context, tokenizer = opened.spec.model.context, opened.tokenizer
    texts = ["", "a", "the tree of a " * 3, "x" * context, "every tree that sings ä" * 5]
    encoded = tokenizer.encode_batch(texts)
    found = score_documents(opened.model, encoded, tokenizer.separator, context)
    for ids, nats in zip(encoded, found, strict=True):
        expected = 0.0
        for inputs, targets in windows(ids, tokenizer.separator, context):
            for k, target in enumerate(targets):
                seen = torch.from_numpy(inputs[: len(inputs) - len(targets) + k + 1])[None]
                logits = opened.model.hidden(seen)[0, -1] @ opened.model.head.t()
                expected -= F.log_softmax(logits, dim=0)[target].item()
        assert nats == pytest.approx(expected, abs=1e-4)


def test_exact_continuation_is_what_generating_gives(run, spec):
    opened = open_model(place(run, spec))
    context = opened.spec.model.context
    _, remembered = evaluate.own_text(opened)
    assert [length for length, _, _ in remembered.continued] == [4, 8, 16]
    rows = torch.from_numpy(Batches(opened.store, opened.spec).unique(0, 64))
    for length, share, _ in remembered.continued:
        hits = 0
        for row in rows:
            text = row[: context // 2 + 1].tolist()
            for _ in range(length):
                logits = opened.model.hidden(torch.tensor([text]))[0, -1] @ opened.model.head.t()
                text.append(int(logits.argmax()))
            hits += text == row[: len(text)].tolist()
        assert share == hits / len(rows)


def test_groups_are_reported_and_everything_is_written(run, spec, tmp_path, capsys):
    for name in ("a", "b", "c"):
        lines = [json.dumps({"text": f"{name} the tree {n} of a small house"}) for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    file = tmp_path / "found.json"
    where = ["evaluate", place(run, spec), "--corpus", str(tmp_path / "*.jsonl"), "--json", str(file)]
    assert cli.main(where) == 0
    said = capsys.readouterr().out
    assert "12 documents" in said
    assert "b.jsonl: " in said
    found = json.loads(file.read_text())["by_document"]
    assert {document["begins"][:6] for document in found["documents"]} == {"a the ", "b the ", "c the "}
    assert {document["group"] for document in found["documents"]} == {str(tmp_path / f"{n}.jsonl") for n in "abc"}
    tokens = sum(document["tokens"] for document in found["documents"])
    assert found["loss"] == pytest.approx(sum(d["nats"] for d in found["documents"]) / tokens)


def test_what_is_not_finite_is_null_in_json(run, tmp_path, monkeypatch, capsys):
    """The standard error of one document, and the perplexity of a loss that is very high."""
    (tmp_path / "one.txt").write_text("the tree of a small house")
    file = tmp_path / "found.json"
    score = evaluate.score_documents
    monkeypatch.setattr(evaluate, "score_documents", lambda *all_of_it: score(*all_of_it) * 1e4)
    assert cli.main(["evaluate", run.uri, "--corpus", str(tmp_path / "one.txt"), "--json", str(file)]) == 0

    def refuse(constant: str):
        raise ValueError(f"{constant} is not JSON")

    found = json.loads(file.read_text(), parse_constant=refuse)["by_document"]
    assert found["loss"] > 1000
    assert (found["standard_error"], found["perplexity"]) == (None, None)
    assert " ± unknown nats per token" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["", "hf:json:"])
def test_documents_are_grouped_by_a_field_and_what_is_left_out_is_said(run, tmp_path, capsys, kind):
    rows = [{"text": f"the tree {n}", "author": "ab"[n % 2]} for n in range(6)] + [{"text": " ", "author": "a"}]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert (
        cli.main(["evaluate", run.uri, "--corpus", f"{kind}{tmp_path / 'all.jsonl'}", "--group-field", "author"]) == 0
    )
    said = capsys.readouterr().out
    assert "6 documents" in said
    assert "\n  a: " in said
    assert "blank" in said


def test_evaluate_prints_the_row_and_what_is_remembered(run, spec, capsys):
    assert cli.main(["evaluate", run.uri]) == 0
    said = capsys.readouterr().out
    assert "its row says" in said
    assert "below held-out text" in said
    assert "each passage by itself" in said


def test_the_text_of_a_document_counts_in_bytes(run, spec):
    opened = open_model(place(run, spec))
    measured = evaluate.by_document(opened, [Document("ä木")], "two characters")
    assert measured.scores.bytes.tolist() == [5]
    assert measured.scores.bits_per_byte == pytest.approx(measured.bits_per_byte)


def test_the_task_holds_the_held_out_text(run, tmp_path):
    assert cli.main(["evaluate", run.uri, "--task", str(tmp_path)]) == 0
    lines = (tmp_path / "held_out.jsonl").read_text().splitlines()
    store = open_model(run.uri).store
    held = store.tokenizer().decode(store.tokens("validation", 0, store.validation_tokens))
    assert all(json.loads(line)["text"] in held for line in lines)
    assert lines
