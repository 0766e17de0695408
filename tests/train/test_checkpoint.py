"""Checkpoints are written behind the training and are whole whatever happens meanwhile: kill -9, a
full disk, another checkpoint that is due.
"""

import errno
import logging
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import torch

from raysparse.data.order import Batches
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.train import checkpoint, trial
from raysparse.train.evaluate import evaluate
from raysparse.train.hooks import Hook, Progress, StopTrial
from raysparse.train.state import TrainState
from raysparse.train.step import StepRecord, train_step
from tests.conftest import small_trial
from tests.train.test_trial import WHOLE_STATE, assert_same, final_state

SPEC = small_trial("smet", data={"epochs": 2.0}, optimizer={"average": 0.2})
LONG = small_trial(data={"epochs": 12.0})
OFTEN = Placement(checkpoint_seconds=1e-9, keep="state")


class Slow(Hook):
    """Leaves time for a checkpoint to be written between steps."""

    def after_step(self, state, record):
        time.sleep(0.01)


def train_until_killed(store, folder: Folder) -> None:
    """In a process of its own, with checkpoints one after another."""
    torch.set_num_threads(1)
    checkpoint.SHARE = 1e9
    trial.run(LONG, store, folder, placement=OFTEN, hooks=[Slow()])


def test_killed_at_any_moment_there_is_one_whole_checkpoint_and_the_end_is_the_same(store, tmp_path):
    """Twelve times, in the middle of writing more often than not; the run goes on from there."""
    folder, moments = Folder(tmp_path / "killed"), random.Random(0)
    processes = multiprocessing.get_context("fork")
    kills = 0
    while kills < 12:
        child = processes.Process(target=train_until_killed, args=(store, folder))
        child.start()
        step = folder.read_json("checkpoint/latest.json")["step"] if folder.exists("checkpoint/latest.json") else 0
        while child.is_alive() and not folder.exists("checkpoint/latest.json"):
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.08))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        state = TrainState(LONG, Placement())
        assert checkpoint.load(folder, state), "there is one, and its checksum holds"
        assert state.step >= step, "never an older one than before"
    trial.run(LONG, store, folder, placement=WHOLE_STATE)
    trial.run(LONG, store, Folder(tmp_path / "whole"), placement=WHOLE_STATE)
    assert_same(final_state(folder), final_state(Folder(tmp_path / "whole")))


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(store, tmp_path, monkeypatch):
    """The file holds the state of the step at which it was begun, though steps are taken before it
    is written.
    """
    may_write, real = threading.Event(), checkpoint.write

    def held(*arguments, **named):
        may_write.wait()
        real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "write", held)
    state, batches = TrainState(SPEC, Placement()), Batches(store, SPEC)
    behind = checkpoint.Behind(Folder(tmp_path))
    for _ in range(3):
        train_step(state, batches)
    before = checkpoint.Behind(Folder(tmp_path))._copy(state.state_dict())
    behind.begin(state)
    for _ in range(6):
        train_step(state, batches)
    state.topology.update(state.weights, 8)
    assert behind.is_busy
    may_write.set()
    behind.wait()
    other = TrainState(SPEC, Placement())
    assert checkpoint.load(Folder(tmp_path), other)
    assert_same(other.state_dict(), before)


def test_a_full_disk_is_named_and_the_older_checkpoint_stays(store, tmp_path, monkeypatch, caplog):
    """From step 20 on nothing more fits: training goes on, and a later attempt continues from what
    there is.
    """
    folder = Folder(tmp_path / "full")
    real = Folder.write

    def full(self, name, data):
        if name.startswith("checkpoint/step-") and int(name[16:24]) >= 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        real(self, name, data)

    class BreakAt30(Hook):
        def after_step(self, state, record):
            if record.step == 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "write", full)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        trial.run(SPEC, store, folder, placement=Placement(checkpoint_seconds=0.0), hooks=[BreakAt30()])
    assert f"trial {SPEC.trial_id}: no checkpoint after step 20 (" in caplog.text
    assert "No space left on device" in caplog.text
    assert folder.read_json("checkpoint/latest.json")["step"] == 19
    monkeypatch.undo()
    resumed = trial.run(SPEC, store, folder, placement=WHOLE_STATE)
    assert resumed.evaluations == trial.run(SPEC, store, Folder(tmp_path / "whole")).evaluations


def test_what_is_not_the_storage_s_fault_is_raised(store, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "write", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial.run(SPEC, store, Folder(tmp_path), placement=OFTEN)


def test_a_checkpoint_costs_at_most_its_share_of_the_time(store, tmp_path, monkeypatch):
    """One that takes longer is made less often: after a second's cost, fifty seconds pass."""
    now = [0.0]
    hooks = trial.Checkpoint(Folder(tmp_path), every_seconds=1.0)
    begun = []
    monkeypatch.setattr("raysparse.train.hooks.time.monotonic", lambda: now[0])
    monkeypatch.setattr(hooks.behind, "begin", lambda state: begun.append(now[0]))
    monkeypatch.setattr(checkpoint.Behind, "cost", 1.0)
    state = TrainState(SPEC, Placement())
    hooks.start(state)
    for second in range(120):
        now[0] = float(second)
        hooks.after_step(state, StepRecord(second, 2.0, 1e-3, 1.0, seconds=1.0))
    assert begun == [50.0, 100.0]


def test_what_steps_beside_the_writing_take_longer_is_a_cost(tmp_path, monkeypatch):
    """Steps of .1 s, of which two take .5 s beside a file: .8 s, and little for the copy; a slow
    step with nothing beside it is nobody's.
    """
    may_write = threading.Event()
    monkeypatch.setattr(checkpoint, "write", lambda *_: may_write.wait())
    behind = checkpoint.Behind(Folder(tmp_path))
    for seconds in (0.1, 0.1, 3.0, 0.1):
        behind.after_step(seconds)
    assert behind.cost == 0.0
    behind.begin(TrainState(SPEC, Placement()))
    behind.after_step(0.5)
    may_write.set()
    behind._thread.join()
    behind.after_step(0.5)
    behind.after_step(0.6)
    assert 0.8 <= behind.cost < 1.0


def test_a_process_that_stood_still_is_not_what_its_checkpoint_cost(tmp_path):
    """Stopped for ten minutes beside a file: the next one is not eight hours away."""
    behind = checkpoint.Behind(Folder(tmp_path))
    behind.after_step(0.1)
    behind.begin(TrainState(SPEC, Placement()))
    behind._thread.join()
    behind.after_step(600.0)
    assert 0.9 <= behind.cost < 2.0


@pytest.mark.parametrize(("keep", "suffix"), [("nothing", None), ("weights", "weights-"), ("state", "step-")])
def test_a_finished_trial_keeps_what_it_is_told(keep, suffix, store, tmp_path):
    folder = Folder(tmp_path)
    outcome = trial.run(SPEC, store, folder, placement=Placement(checkpoint_seconds=0.0, keep=keep))
    files = [name for name in folder.names("checkpoint") if name.endswith(".pt")]
    assert [name.startswith(suffix) for name in files] == ([True] if suffix else [])
    assert folder.exists("checkpoint/latest.json") == bool(suffix)
    if suffix:
        state = TrainState(SPEC, Placement())
        assert checkpoint.load(folder, state)
        assert evaluate(state, Batches(store, SPEC)) == outcome.evaluations[-1], "average and masks included"
        assert state.groups["sparse"].arena.exp_avg.any() == (keep == "state")
        assert trial.run(SPEC, store, folder).evaluations == outcome.evaluations, "and is not trained again"


def test_a_log_that_cannot_be_written_leaves_the_checkpoint_before_and_training_goes_on(
    store, tmp_path, monkeypatch, caplog
):
    """A checkpoint ahead of its log would lose lines at a resume."""
    folder, write, failed = Folder(tmp_path), Folder.write, []

    def full_once(self, name, data):
        if name == "metrics.jsonl" and b'"step": 5,' in data and not failed:
            failed.append(self.read_json("checkpoint/latest.json")["step"])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", full_once)
    seen = []

    class Watch(Hook):
        def after_step(self, state, record):
            seen.append(folder.read_json("checkpoint/latest.json")["step"] if state.step > 1 else 0)

    outcome = trial.run(SPEC, store, folder, placement=Placement(checkpoint_seconds=0.0), hooks=[Watch()])
    assert (outcome.status, failed) == ("completed", [4])
    assert seen[:7] == [0, 1, 2, 3, 4, 4, 6]
    assert "metrics.jsonl is not written ([Errno 28]" in caplog.text


def test_a_pruned_trial_keeps_its_weights_and_would_start_over(store, tmp_path, caplog):
    def stop(news):
        raise StopTrial("enough")

    folder = Folder(tmp_path)
    pruned = trial.run(SPEC, store, folder, hooks=[Progress(stop)])
    state = TrainState(SPEC, Placement())
    assert checkpoint.load(folder, state)
    assert state.step == pruned.steps < SPEC.steps
    whole = trial.run(SPEC, store, folder)
    assert "kept its weights: it starts over" in caplog.text
    assert whole.evaluations[: len(pruned.evaluations)] == pruned.evaluations
    assert whole.steps == SPEC.steps
