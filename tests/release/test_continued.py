"""Going on from a trained model: the weights are handed on, the schedule is new, the row says where
it came from.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from raysparse.console import cli
from raysparse.files import Folder
from raysparse.kernels import bitmask
from raysparse.placement import Placement
from raysparse.release import continued, evaluate
from raysparse.release.export import export
from raysparse.release.opened import open_model
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.sparsity.storage import SparseWeights
from raysparse.train import checkpoint, trial
from raysparse.train.state import TrainState
from tests.conftest import small_trial
from tests.release.models import place, trained

LAYOUTS = {
    "element": {},
    "run": {"layout": "run", "block": 4},
    "tile": {"layout": "tile", "block": 4},
    "balanced": {"layout": "tile", "block": 4, "balanced": True},
    "erk": {"distribution": "erk"},
}


@pytest.fixture(scope="module")
def parents(tmp_path_factory, corpus):
    """A dense and a sparse model."""
    specs = {kind: small_trial(kind, data={"corpus": corpus}, evaluations=1) for kind in ("dense", "smet")}
    run = trained(tmp_path_factory.mktemp("parents"), "parents", *specs.values())
    return {kind: open_model(place(run, spec)) for kind, spec in specs.items()}


def begun(parent, spec, tmp_path) -> TrainState:
    """The state that the new trial's first step finds."""
    folder = Folder(tmp_path / spec.trial_id)
    continued.save_start(parent, spec, folder)
    state = TrainState(spec, Placement())
    checkpoint.begin(folder, state, parent.tokenizer.fingerprint)
    return state


def dense_weights(weights) -> dict[str, torch.Tensor]:
    return {name: m.layout.expand(m.values, torch.empty(m.shape)) for name, m in weights.matrices.items()}


@pytest.mark.parametrize("kind", ["dense", "smet"])
def test_it_begins_with_the_model_that_it_goes_on_from(kind, parents, tmp_path):
    parent = parents[kind]
    spec = continued.continued_spec(parent, 2.0)
    state = begun(parent, spec, tmp_path)
    assert torch.equal(state.weights.arena.values, parent.weights.arena.values)
    for one, two in zip(state.model.parameters(), parent.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not state.weights.arena.exp_avg.any()
    assert (spec.parent, spec.seed, spec.data.epochs) == (parent.spec.trial_id, 1, 2.0)
    assert spec.trial_id != spec.replace(parent="").trial_id


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dense_model_made_sparse_keeps_its_largest_blocks(layout, parents, tmp_path):
    parent = parents["dense"]
    rule = small_trial(sparsity=LAYOUTS[layout]).sparsity
    state = begun(parent, continued.continued_spec(parent, 1.0, sparsity=rule), tmp_path)
    before, after = dense_weights(parent.weights), dense_weights(state.weights)
    for name, matrix in state.weights.matrices.items():
        active = matrix.layout.expand(torch.ones_like(matrix.values), torch.empty(matrix.shape)).bool()
        assert int(active.sum()) == matrix.layout.shape.active_weights
        assert torch.equal(after[name], before[name] * active)
        sums = matrix.layout.block_sums(before[name].abs())
        chosen = matrix.layout.block_sums(active.float()) > 0
        rows = sums.numel() // (matrix.shape[1] // 4) if rule.balanced else 1
        for values, kept in zip(sums.view(rows, -1), chosen.view(rows, -1), strict=True):
            assert int(kept.sum()) == matrix.layout.shape.active // rows
            assert kept.all() or values[kept].min() >= values[~kept].max()


@pytest.mark.parametrize("before", ["tile", "balanced"])
def test_a_model_that_is_balanced_from_now_on_begins_balanced(before):
    """The masks of one that was already are kept."""
    old, new = (SparseWeights(small_trial(sparsity=LAYOUTS[layout])) for layout in (before, "balanced"))
    old.arena.values.normal_(generator=torch.Generator().manual_seed(0))
    for name, matrix in new.matrices.items():
        continued.adopt(matrix, old.matrices[name], seed=1, balanced=True)
        layout, mask = matrix.layout, old.matrices[name].layout.mask
        assert continued.is_balanced(layout)
        assert int(bitmask.unpack(layout.mask, layout.shape.total).sum()) == layout.shape.active
        assert torch.equal(layout.mask, mask) == continued.is_balanced(old.matrices[name].layout)
    assert all(continued.is_balanced(m.layout) for m in old.matrices.values()) == (before == "balanced")


def test_a_sparse_model_made_denser_computes_what_it_did(parents, tmp_path):
    parent = parents["smet"]
    tokens = torch.randint(0, 257, (2, 33), generator=torch.Generator().manual_seed(0))
    for density in (0.5, 1.0):
        rule = parent.spec.sparsity.replace(method="dense" if density == 1 else "smet", density=density)
        state = begun(parent, continued.continued_spec(parent, 1.0, sparsity=rule), tmp_path)
        with torch.no_grad():
            torch.testing.assert_close(state.model(tokens), parent.model(tokens), rtol=1e-5, atol=1e-3)
        for name, matrix in parent.weights.matrices.items():  # what was active stays so, an active 0 too
            old, new = (
                m.layout.expand(torch.ones_like(m.values), torch.empty(m.shape)).bool()
                for m in (matrix, state.weights.matrices[name])
            )
            assert new[old].all()


def test_made_sparser_and_back_the_next_trial_trains(parents, tmp_path, corpus):
    """Interrupted after its first half it goes on from its checkpoint, not from its start."""
    parent = parents["dense"]
    spec = continued.continued_spec(parent, 1.0, sparsity=small_trial().sparsity)
    folder = Folder(tmp_path / "trial")
    with pytest.raises(ValueError, match=r"continues trial .* but .*start\.pt is missing; train it with"):
        trial.run(spec, parent.store, folder)
    continued.save_start(parent, spec, folder)
    whole = trial.run(spec, parent.store, folder)
    assert whole.steps == spec.steps
    assert trial.run(spec, parent.store, folder).validation_loss == whole.validation_loss
    with pytest.raises(ValueError, match="expected the parent elsewhere"):
        checkpoint.begin(folder, TrainState(spec.replace(parent="elsewhere"), Placement()), "")


def test_the_command_goes_on_and_the_row_names_the_parent(parents, tmp_path, capsys):
    parent = parents["dense"]
    where = ["train", "--from", parent.where.uri, "--unique-tokens", "3000", "--update-every", "8"]
    assert cli.main([*where, "--epochs", "+1", "--density", "0.5", "--name", "on", "--set", "optimizer.lr=0.001"]) == 0
    said = capsys.readouterr().out
    assert "with a schedule of their own" in said
    run = RunFolder(parent.where.uri.rpartition("/parents/")[0] + "/on")
    [row] = Results(run).rows()
    assert (row["parent"], row["density"], row["method"], row["lr"]) == (parent.spec.trial_id, 0.5, "smet", 0.001)
    assert row["unique_tokens"] == 3000
    assert row["tokens"] == 23 * 4 * 32  # its own tokens: 93 sequences, once
    # It began with what its parent knew: one that begins anew is far behind after as many steps.
    alone = trained(tmp_path, "alone", open_model(run.uri).spec.replace(parent=""))
    assert row["validation_loss"] < Results(alone).rows()[0]["validation_loss"] - 0.1


def test_an_export_can_be_gone_on_from(parents, tmp_path):
    parent = parents["smet"]
    opened = open_model(str(export(parent, str(tmp_path / "out"))))
    spec = continued.continued_spec(opened, 1.0)
    assert spec == continued.continued_spec(parent, 1.0)
    state = begun(opened, spec, tmp_path)
    assert torch.equal(state.weights.arena.values, parent.weights.arena.values)
    with pytest.raises(ValueError, match="learned the tokens of another bytes tokenizer than the one that"):
        checkpoint.begin(Folder(tmp_path / spec.trial_id), state, "another")


def test_going_on_from_averaged_weights_is_another_trial(parents):
    parent = parents["smet"]
    averaged = continued.continued_spec(dataclasses.replace(parent, average=True), 1.0)
    plain = continued.continued_spec(parent, 1.0)
    assert averaged.trial_id != plain.trial_id
    assert (plain.parent, averaged.parent) == (parent.spec.trial_id, f"{parent.spec.trial_id}:average")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "+x"], "--epochs is '+x', expected a number"),
        (["--epochs", "+1", "--row", "a"], "name the trial by --from, without --row"),
        (["--epochs", "2"], "what is recommended has its own; to go on from a trained model say --epochs +N"),
        (["--epochs", "+1", "--precision", "bf16"], "--precision bf16 and --from"),
        (["--epochs", "+1", "--layout", "tile"], "a model that goes on has its own; --set changes it"),
        (["--density", "0.5"], "to go on from a trained model say --epochs +N"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, parents, capsys):
    assert cli.main(["train", "--from", parents["dense"].where.uri, *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_unfinished_model_is_not_gone_on_from(parents):
    parent = open_model(parents["dense"].where.uri)
    parent.step -= 1
    with pytest.raises(ValueError, match="stopped at step 40 of 41; train it to its end first"):
        continued.continued_spec(parent, 1.0)
    assert evaluate.held_out(parent).scores.loss > 0
