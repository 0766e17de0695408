"""A whole trial: dense equals plain torch, interrupted equals uninterrupted, and every way a run
can end.
"""

import copy
import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from raysparse.data.order import Batches
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import make_row
from raysparse.spec import ModelSpec
from raysparse.train import hooks, trial
from raysparse.train.evaluate import evaluate
from raysparse.train.events import EventFile
from raysparse.train.hooks import Hook, Progress, StopTrial
from raysparse.train.state import TrainState
from raysparse.train.step import Diverged, train_step
from tests.conftest import small_trial
from tests.model.test_llama import plain_copy

METHODS = ["dense", "static", "set", "rigl", "smet", "smet_grad"]
EVERY_STEP = Placement(checkpoint_seconds=0.0)
WHOLE_STATE = Placement(keep="state")


class Interrupt(Hook):
    """Breaks the run after a step, as a signal would."""

    def __init__(self, step: int):
        self.step = step

    def after_step(self, state, record):
        if record.step == self.step:
            raise KeyboardInterrupt


class Watch(Hook):
    """Sees after every step but the first what a kill would have left of the steps before."""

    def __init__(self, folder: Folder):
        self.folder, self.complete = folder, []

    def after_step(self, state, record):
        if record.step > 1:
            steps = self.folder.read_json("checkpoint/latest.json")["step"]
            self.complete.append([line["step"] for line in logged(self.folder)] == list(range(1, steps + 1)))


def final_state(folder: Folder) -> dict:
    """Everything in the last checkpoint but the time that was measured."""
    name = folder.read_json("checkpoint/latest.json")["file"]
    state = torch.load(folder.local_path / "checkpoint" / name, weights_only=True)
    for measured in ("seconds", "seconds_total"):
        state.pop(measured)
    return state


def assert_same(one, two):
    """Bit for bit, through nested dictionaries and lists."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list):
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    else:
        assert one == two


def logged(folder: Folder) -> list[dict]:
    lines = [json.loads(line) for line in folder.read("metrics.jsonl").decode().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def best(outcome) -> tuple:
    row = make_row(small_trial(), Placement(), outcome)
    return row["best_validation_loss"], row["best_step"], row["best_average_validation_loss"], row["best_average_step"]


# Of 40 steps of 4 sequences over 64 unique ones: inside an epoch; the first step of the second;
# right after an update; the last but one. Checkpoints are written after every step, so the run
# resumes after the step before the one named here.
BREAKS = {
    "inside an epoch": 11,
    "across an epoch boundary": 17,
    "right after a topology update": 25,
    "before the last step": 39,
}


def test_the_log_never_lags_behind_the_checkpoint(store, tmp_path):
    watch = Watch(Folder(tmp_path))
    trial.run(small_trial("set"), store, Folder(tmp_path), placement=EVERY_STEP, hooks=[watch])
    assert set(watch.complete) == {True}


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_and_resumed_equals_uninterrupted(method, store, tmp_path):
    spec = small_trial(method)
    assert spec.unique_sequences == 64
    assert spec.steps == 41
    whole = Folder(tmp_path / "whole")
    undisturbed = trial.run(spec, store, whole, placement=WHOLE_STATE)
    broken = Folder(tmp_path / "broken")
    for step in BREAKS.values():
        with pytest.raises(KeyboardInterrupt):
            trial.run(spec, store, broken, hooks=[Interrupt(step)], placement=EVERY_STEP)
    resumed = trial.run(spec, store, broken, placement=WHOLE_STATE)
    assert resumed.evaluations == undisturbed.evaluations
    assert best(resumed) == best(undisturbed)
    assert (resumed.train_loss, resumed.validation_loss) == (undisturbed.train_loss, undisturbed.validation_loss)
    assert_same(final_state(broken), final_state(whole))
    assert logged(broken) == logged(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16", "optimizer": {"moments": "bf16_stochastic"}},
        {"precision": "bf16_master", "sparsity": {"layout": "run", "block": 4, "prune": "soft_magnitude"}},
        {"sparsity": {"layout": "tile", "block": 4, "distribution": "erk"}, "optimizer": {"weight_decay": 0.1}},
        {"method": "smet_grad", "sparsity": {"layout": "tile", "block": 4, "balanced": True}},
        {"optimizer": {"average": 0.2, "dropout": 0.1}},
        {"precision": "bf16", "sparsity": {"layout": "tile", "block": 4}, "optimizer": {"average": 0.2}},
    ],
    ids=[
        "bf16 with stochastic rounding",
        "runs, softly pruned",
        "tiles, ERK, weight decay",
        "balanced tiles",
        "averaged, with dropout",
        "averaged in bf16",
    ],
)
def test_resuming_is_exact_in_every_dtype_and_layout(change, store, tmp_path):
    spec = small_trial(**change)
    undisturbed = trial.run(spec, store, Folder(tmp_path / "whole"), placement=WHOLE_STATE)
    with pytest.raises(KeyboardInterrupt):
        trial.run(spec, store, Folder(tmp_path / "broken"), hooks=[Interrupt(20)], placement=EVERY_STEP)
    resumed = trial.run(spec, store, Folder(tmp_path / "broken"), placement=WHOLE_STATE)
    assert best(resumed) == best(undisturbed)
    assert_same(final_state(Folder(tmp_path / "broken")), final_state(Folder(tmp_path / "whole")))


def test_running_a_finished_trial_again_trains_nothing(store, tmp_path):
    spec, folder = small_trial(), Folder(tmp_path)
    first = trial.run(spec, store, folder)
    told = []
    second = trial.run(spec, store, folder, hooks=[Progress(told.append)])
    assert told == []
    assert second.evaluations == first.evaluations
    assert second.seconds == first.seconds


def test_dense_equals_plain_torch_with_its_own_adam_step_by_step(store):
    """Same weights, same batches, torch.optim.Adam: losses and weights agree to rounding at every
    step.
    """
    spec = small_trial("dense", optimizer={"clip": 1.0})
    state = TrainState(spec, Placement())
    plain = plain_copy(state)
    adam = torch.optim.Adam(plain.parameters(), lr=1.0)
    batches = Batches(store, spec)
    for step in range(12):
        adam.zero_grad()
        loss = plain(torch.from_numpy(batches.train(step, 0, 4))) / spec.tokens_per_step
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        record = train_step(state, batches)
        for group in adam.param_groups:
            group["lr"] = record.lr
        adam.step()
        assert record.loss == pytest.approx(loss.item(), rel=1e-5)
        for name, matrix in state.weights.matrices.items():
            expected = plain.projections[name.replace(".", "/")].detach()
            torch.testing.assert_close(matrix.weight(), expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("method", ["static", "set", "rigl", "smet", "smet_grad"])
def test_every_method_at_density_one_is_dense(method, store, tmp_path):
    dense = trial.run(small_trial("dense"), store, Folder(tmp_path / "dense"))
    full = trial.run(small_trial(method, 1.0), store, Folder(tmp_path / method))
    assert full.evaluations == dense.evaluations


def test_micro_batches_change_only_the_rounding(store, tmp_path):
    spec = small_trial("smet_grad")
    at_once = trial.run(spec, store, Folder(tmp_path / "one"))
    in_parts = trial.run(spec, store, Folder(tmp_path / "two"), placement=Placement(micro_batch=3))
    for one, two in zip(at_once.evaluations, in_parts.evaluations, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=2e-3)


def test_the_validation_loss_is_the_token_weighted_mean_whatever_the_batch(store, tmp_path, monkeypatch):
    spec = small_trial("dense")
    outcome = trial.run(spec, store, Folder(tmp_path / "a"))
    monkeypatch.setattr("raysparse.train.evaluate.SEQUENCES_AT_ONCE", 5)  # 31 sequences: the last portion is short
    again = trial.run(spec, store, Folder(tmp_path / "b"))
    assert again.validation_loss == pytest.approx(outcome.validation_loss, rel=1e-6)
    assert outcome.validation_bits_per_byte == pytest.approx(
        outcome.validation_loss / math.log(2) / store.bytes_per_token, rel=1e-12
    )


def test_training_learns(store, tmp_path):
    outcome = trial.run(small_trial(optimizer={"lr": 1e-2}), store, Folder(tmp_path))
    assert outcome.status == "completed"
    assert outcome.evaluations[-1].loss < math.log(257) - 1.5
    assert [e.step for e in outcome.evaluations] == [10, 20, 31, 41]
    assert outcome.tokens == outcome.evaluations[-1].tokens == 41 * 4 * 32


def test_a_diverging_run_says_so_and_keeps_its_last_good_state(store, tmp_path):
    """At an absurd rate the loss leaves the numbers; the step that would spoil the weights is
    refused.
    """
    spec = small_trial("dense", optimizer={"lr": 1e30, "clip": 0.0, "warmup_fraction": 0.0})
    folder = Folder(tmp_path)
    outcome = trial.run(spec, store, folder, placement=EVERY_STEP)
    assert outcome.status == "diverged"
    assert "gradient norm" in outcome.reason
    assert 0 < outcome.steps < spec.steps


def test_a_last_step_that_ruins_the_weights_is_a_divergence(store, tmp_path, monkeypatch):
    """No later step's loss tells of it, only the evaluation."""
    real = hooks.evaluate

    def evaluate(state, batches):
        found = real(state, batches)
        return dataclasses.replace(found, loss=math.nan) if state.is_done else found

    monkeypatch.setattr(hooks, "evaluate", evaluate)
    spec = small_trial()
    outcome = trial.run(spec, store, Folder(tmp_path))
    assert (outcome.status, outcome.reason) == ("diverged", "validation loss nan after step 41")
    assert (outcome.validation_loss, outcome.validation_bits_per_byte) == (None, None)
    assert [e.step for e in outcome.evaluations] == [10, 20, 31]
    assert json.dumps(make_row(spec, Placement(), outcome), allow_nan=False)


def test_a_gradient_that_is_no_number_is_refused_with_its_matrix_named(store):
    state = TrainState(small_trial(), Placement())
    batches = Batches(store, state.spec)
    train_step(state, batches)
    before = copy.deepcopy(state.state_dict())
    state.weights.matrices["layers.1.mlp.up"].grad[3] = math.nan
    with pytest.raises(Diverged, match=r"not finite in layers\.1\.mlp\.up and 0 other matrices\) at step 2 of 41"):
        train_step(state, batches)
    assert_same(state.state_dict(), before)


def test_a_progress_callback_can_end_the_trial(store, tmp_path):
    def stop_early(news):
        if news["step"] >= 12:
            raise StopTrial("a worse half than the others")

    folder = Folder(tmp_path)
    outcome = trial.run(small_trial(), store, folder, hooks=[Progress(stop_early, every_seconds=0.0)])
    assert (outcome.status, outcome.reason, outcome.steps) == ("pruned", "a worse half than the others", 12)
    assert logged(folder)[-1]["step"] == 12, "the step after which it ended is told of too"


def test_seconds_in_all_are_those_of_all_attempts(store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trial.run(small_trial(), store, Folder(tmp_path), hooks=[Interrupt(40)], placement=EVERY_STEP)
    outcome = trial.run(small_trial(), store, Folder(tmp_path))
    assert outcome.seconds_total > outcome.seconds


def test_the_trial_folder_holds_what_the_contract_says(store, tmp_path):
    spec, folder = small_trial(), Folder(tmp_path)
    trial.run(spec, store, folder)
    assert folder.names() == ["checkpoint", "metrics.jsonl", "spec.json", "tensorboard"]
    assert type(spec).from_dict(folder.read_json("spec.json")).trial_id == spec.trial_id
    lines = logged(folder)
    assert [line["step"] for line in lines] == list(range(1, 42))
    assert {"loss", "lr", "sparse_lr", "density", "gradient_norm", "tokens"} <= set(lines[0])
    assert lines[7]["regrown_share"] > 0
    assert "validation_loss" in lines[-1]


def test_tensorboard_shows_curves_and_hparams(store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trial.run(small_trial(), store, Folder(tmp_path))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"loss", "lr", "density", "regrown_share", "tokens_per_second", "gradient_norm", "validation_loss"} <= set(
        events.Tags()["scalars"]
    )
    assert "average_validation_loss" not in events.Tags()["scalars"]
    assert events.summary_metadata["_hparams_/session_start_info"]


def test_the_curves_of_a_second_attempt_replace_those_of_the_first_from_there_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = EventFile(tmp_path)
    for step in (1, 2, 3):
        first.scalars(step, {"loss": 10.0 + step})
    first.flush()  # and then it is killed
    assert len(EventAccumulator(str(tmp_path)).Reload().Scalars("loss")) == 3
    second = EventFile(tmp_path, purge_step=3)
    second.scalars(3, {"loss": 23.0})
    second.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(e.step, e.value) for e in found] == [(1, 11.0), (2, 12.0), (3, 23.0)]


def test_the_average_is_logged_beside_the_loss_and_the_settings_are_hparams(store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    optimizer = {"average": 0.2, "weight_decay": 0.5, "decay_per": "run", "dropout": 0.1}
    outcome = trial.run(small_trial(optimizer=optimizer), store, Folder(tmp_path))
    averages = [line["average_validation_loss"] for line in logged(Folder(tmp_path)) if "validation_loss" in line]
    assert averages == [e.average_loss for e in outcome.evaluations]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("average_validation_loss")] == [10, 20, 31, 41]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {"weight_decay", "decay_per", "dropout", "average", "active_weights", "flops_active"} <= set(shown)
    assert shown["weight_decay"].number_value == 0.5


def test_an_evaluation_of_the_average_is_that_of_a_model_with_these_weights_and_leaves_no_trace(store):
    """In bfloat16, where weights and averages differ in dtype, and with dense weights kept."""
    for precision in ("fp32", "bf16", "bf16_master"):
        spec = small_trial(precision=precision, optimizer={"average": 0.2})
        state, batches = TrainState(spec, Placement(resident=True)), Batches(store, spec)
        for _ in range(9):
            train_step(state, batches)
        before = copy.deepcopy(state.state_dict())
        found = evaluate(state, batches)
        assert_same(state.state_dict(), before)
        assert not any(group.arena.grad.any() for group in state.groups.values())
        assert found.loss == evaluate(state, batches).loss != found.average_loss
        other = TrainState(spec, Placement())
        other.load_state_dict(before)
        for group in other.groups.values():
            group.arena.values.copy_(group.arena.average)
        assert evaluate(other, batches).loss == found.average_loss


def test_a_damaged_checkpoint_is_found_and_named(store, tmp_path):
    spec, folder = small_trial(), Folder(tmp_path)
    trial.run(spec, store, folder)
    file = next((tmp_path / "checkpoint").glob("*.pt"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{file.name} is damaged.*delete .*checkpoint and run again"):
        trial.run(spec, store, folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"is missing although latest\.json names it"):
        trial.run(spec, store, folder)


@pytest.mark.parametrize("change", [{"seed": 1}, {"sparsity": {"layout": "tile", "block": 4}}], ids=["seed", "layout"])
def test_a_checkpoint_of_another_trial_is_refused(change, store, tmp_path):
    trial.run(small_trial(), store, Folder(tmp_path))
    with pytest.raises(ValueError, match=r"this state is of trial .*, not of .*; give each its own folder"):
        trial.run(small_trial(**change), store, Folder(tmp_path))


def test_a_model_with_another_vocabulary_than_the_tokens_is_refused(store, tmp_path):
    model = ModelSpec(hidden=16, intermediate=24, layers=2, heads=2, vocab_size=300, context=32)
    with pytest.raises(ValueError, match="257"):
        trial.run(small_trial(model=model), store, Folder(tmp_path))
    assert not list(tmp_path.iterdir())


def test_cross_entropy_of_an_untrained_model_is_that_of_guessing(store):
    state = TrainState(small_trial("dense"), Placement())
    rows = torch.from_numpy(Batches(store, state.spec).validation(0, 8))
    with torch.no_grad():
        assert state.model(rows).item() / F.one_hot(rows[:, 1:], 257).sum().item() == pytest.approx(
            math.log(257), rel=0.01
        )
