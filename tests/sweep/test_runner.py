"""A sweep in one process: the whole path on real files, refusals before anything is written, and
how trials can end.
"""

import io
import os
import signal
import subprocess
import threading

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from raysparse.console.progress import Display
from raysparse.files import Folder
from raysparse.results import Results
from raysparse.run_folder import ANSWER, LATEST, RunFolder
from raysparse.sweep import attempt as attempts
from raysparse.sweep import leftovers, lock, runner
from raysparse.sweep.budget import Budget
from raysparse.sweep.plan import load
from raysparse.sweep.settings import Settings
from raysparse.train import trial
from tests.sweep import runs
from tests.sweep.plans import small_plan

INLINE = Settings(executor="inline")


def sweep(plan, storage, **changes):
    console = Console(file=io.StringIO())
    view = Display(console=console)
    return runner.run(plan, Folder(storage), "run", INLINE.replace(**changes), view=view), console.file.getvalue()


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A folder in which the small plan is finished."""
    storage = tmp_path_factory.mktemp("finished")
    summary, _ = sweep(small_plan(corpus), storage)
    assert (summary.ran, summary.finished, summary.unfinished) == (4, 4, {})
    return storage


def test_every_trial_has_one_row_and_its_folder(corpus, finished):
    plan = small_plan(corpus)
    table = Results(Folder(finished / "run")).table()
    assert sorted(table["trial_id"].to_pylist()) == sorted(plan.trial_ids)
    assert set(table["status"].to_pylist()) == {"completed"}
    assert table["tokens"].to_pylist() == [
        next(s.tokens for s in plan.specs if s.trial_id == trial_id) for trial_id in table["trial_id"].to_pylist()
    ]
    for trial_id in plan.trial_ids:
        files = {path.name for path in (finished / "run" / "trials" / trial_id).iterdir()}
        assert {"spec.json", "metrics.jsonl", "checkpoint", "tensorboard"} <= files
    assert (finished / "run" / "results.parquet").exists()
    assert len(list((finished / "tokens").iterdir())) == 1


def test_curves_are_named_for_people(corpus, finished):
    """TensorBoard names its runs by the paths under --logdir, and follows the links there."""
    found = EventMultiplexer().AddRunsFromDirectory(RunFolder(finished / "run").logdir)
    assert set(found.Runs()) == {f"{spec.name} {spec.trial_id[:6]}" for spec in small_plan(corpus).specs}
    for name in found.Reload().Runs():
        assert "validation_loss" in found.PluginRunToTagToContent("scalars")[name]


def test_a_long_name_is_cut_where_a_file_is_called_by_it(tmp_path):
    folder = RunFolder.named(Folder(tmp_path), "run")
    folder.name_curves("abcdef0123", "ä/" * 150)
    [link] = (tmp_path / "run" / "curves").iterdir()
    assert (link.name[:4], link.name[-7:]) == ("ä-ä-", " abcdef")
    assert len(link.name.encode()) <= 255


def test_running_it_again_does_nothing(corpus, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    summary, _ = sweep(small_plan(corpus), finished)
    assert (summary.ran, summary.finished) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_plan_that_grew_runs_only_what_is_new(corpus, tmp_path):
    sweep(small_plan(corpus, epochs=(1,)), tmp_path)
    summary, _ = sweep(small_plan(corpus, epochs=(1, 2)), tmp_path)
    assert (summary.ran, summary.finished) == (2, 4)


def test_new_trials_that_the_budget_cannot_pay_are_told_of_though_nothing_runs(corpus, finished):
    plan, grown = small_plan(corpus), small_plan(corpus, epochs=(1, 2, 4))
    budget = Budget(total=sum(map(plan.price, plan.specs)))
    summary, _ = sweep(grown.replace(budget=budget), finished)
    assert (summary.trials, summary.ran, summary.finished, summary.unaffordable) == (6, 0, 4, 2)


def test_some_trials_of_a_plan_may_be_run_alone(corpus, tmp_path):
    plan = small_plan(corpus, epochs=(1,))
    chosen = [plan.specs[1].trial_id]
    summary = runner.run(plan, Folder(tmp_path), "run", INLINE, only=chosen)
    assert (summary.trials, summary.ran, summary.is_complete) == (1, 1, True)
    assert runs.journal(tmp_path) == chosen
    assert load(summary.folder).trial_ids == plan.trial_ids


def test_an_answer_is_gone_before_its_table_grows(corpus, tmp_path, monkeypatch):
    """A driver that is killed before it has fitted the new rows leaves no answer to the old
    ones.
    """
    report, there, real = RunFolder(tmp_path / "run").report, [], trial.run
    monkeypatch.setattr(trial, "run", lambda *given, **how: there.append(report.exists(ANSWER)) or real(*given, **how))
    sweep(small_plan(corpus, densities=(1.0,), epochs=(1,)), tmp_path)
    report.write(ANSWER, b"dense")
    sweep(small_plan(corpus, densities=(1.0,), epochs=(1,)), tmp_path)
    assert report.exists(ANSWER), "nothing was run"
    sweep(small_plan(corpus, epochs=(1,)), tmp_path)
    assert there == [False, False]


def test_a_budget_is_never_overshot_and_a_larger_one_continues(corpus, tmp_path):
    plan = small_plan(corpus)
    whole = sum(map(plan.price, plan.specs))
    summary, _ = sweep(plan.replace(budget=Budget(total=0.6 * whole)), tmp_path)
    assert 0 < summary.finished < 4
    assert summary.unaffordable == 4 - summary.finished
    assert sum(Results(Folder(tmp_path / "run")).table()["flops_executed"].to_pylist()) <= 0.6 * whole
    summary, _ = sweep(plan, tmp_path)
    assert (summary.finished, summary.unaffordable) == (4, 0)


@pytest.mark.parametrize(
    ("keeps", "share", "is_chosen"), [("state", 1.0, True), ("weights", 1.0, False), ("weights", 1.5, True)]
)
def test_a_trial_is_begun_only_if_the_budget_holds_what_is_left_to_train(tmp_path, keeps, share, is_chosen):
    plan = small_plan("text", densities=(1.0,), epochs=(2,))
    (spec,), folder = plan.specs, RunFolder(tmp_path)
    plan = plan.replace(budget=Budget(total=share * plan.price(spec)))
    folder.trial(spec.trial_id).write_json(LATEST, {"step": spec.steps // 2, "file": "-", "keeps": keeps})
    left = runner.what_is_left(plan, folder, Results(folder))
    assert (left.chosen == [spec]) == is_chosen
    assert left.work[spec.trial_id].steps == spec.steps // 2, "spent either way"


def test_a_driver_killed_in_mid_trial_continues_bit_for_bit(corpus, finished, tmp_path):
    plan = small_plan(corpus)
    process = runs.start(plan, tmp_path, "--executor", "inline")
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 2, process, tmp_path)
    runs.kill(process.pid)
    process.wait()
    first = runs.journal(tmp_path)
    sweep(plan, tmp_path)
    assert set(first) <= set(runs.journal(tmp_path))
    assert runs.losses(tmp_path) == runs.losses(finished)


def test_a_trial_that_raises_is_a_row_with_its_reason_and_the_rest_runs(corpus, tmp_path, monkeypatch):
    real = trial.run

    def breaks_once(spec, *args, **kwargs):
        if spec.data.epochs == 2 and spec.sparsity.density == 1:
            raise ZeroDivisionError("planted")
        return real(spec, *args, **kwargs)

    monkeypatch.setattr(trial, "run", breaks_once)
    summary, _ = sweep(small_plan(corpus), tmp_path)
    assert summary.finished == 3
    assert list(summary.unfinished.values()) == ["failed: ZeroDivisionError: planted"]
    [failure] = tmp_path.glob("run/trials/*/failure.txt")
    assert "breaks_once" in failure.read_text(), "the whole traceback is kept"
    monkeypatch.undo()
    summary, _ = sweep(small_plan(corpus), tmp_path)
    assert (summary.ran, summary.finished, summary.unfinished) == (1, 4, {})


def test_out_of_memory_is_tried_again_with_half_the_micro_batch(corpus, finished, tmp_path, monkeypatch):
    real, seen = trial.run, []

    def needs_small_batches(spec, *args, placement, **kwargs):
        seen.append(placement.micro_batch)
        if placement.micro_batch == 0:
            raise torch.OutOfMemoryError("CUDA out of memory (planted)")
        return real(spec, *args, placement=placement, **kwargs)

    monkeypatch.setattr(trial, "run", needs_small_batches)
    summary, _ = sweep(small_plan(corpus, densities=(1.0,), epochs=(1,)), tmp_path)
    assert seen == [0, 2]
    assert summary.finished == 1
    [(trial_id, row)] = runs.losses(tmp_path).items()
    # the same global batch: the loss is the same but for the order of sums
    assert row[2] == pytest.approx(runs.losses(finished)[trial_id][2], rel=1e-5)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate")]
)
def test_every_way_of_running_out_of_memory_is_known(error):
    assert attempts.is_out_of_memory(error)
    assert not attempts.is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corpus": "no/such/corpus"}, "corpus 'no/such/corpus' is not a name we know"),
        ({"unique_tokens": (10_000_000,)}, "unique_tokens 10000000 is larger than the corpus"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(corpus, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        sweep(small_plan(**{"corpus": corpus, **change}), tmp_path)
    assert not (tmp_path / "run" / "plan.json").exists()
    assert not (tmp_path / "run" / "journal").exists()


def test_a_vocabulary_that_is_not_the_stores_is_refused(corpus, tmp_path):
    plan = small_plan(corpus)
    small = plan.replace(specs=tuple(s.replace(model=s.model.replace(vocab_size=100)) for s in plan.specs))
    with pytest.raises(ValueError, match="vocab"):
        sweep(small, tmp_path)


def test_held_out_tokens_below_one_sequence_are_refused_before_anything_trains(corpus, tmp_path):
    plan = small_plan(corpus)
    few = [spec.replace(data=spec.data.replace(validation_tokens=spec.model.context)) for spec in plan.specs]
    with pytest.raises(ValueError, match=r"less than one sequence of \d+ tokens and its last target"):
        sweep(plan.replace(specs=tuple(few)), tmp_path)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_storage_that_cannot_be_written_is_refused(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to storage"):
        sweep(small_plan(corpus), tmp_path / "file")


def test_fewer_workers_than_there_are_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="--min-workers is 3 but a trial has 2 workers"):
        runner.run(small_plan(corpus, workers=2), Folder(tmp_path), "run", Settings(min_workers=3))
    assert not (tmp_path / "run").exists()


def test_what_a_killed_driver_left_behind_ends_before_its_folder_is_read(corpus, tmp_path, monkeypatch):
    """A broker lives on for a moment; its last row must not come after the next driver's look."""
    folder = RunFolder.named(Folder(tmp_path), "run")
    left_behind = subprocess.Popen(["sleep", "60"], env=os.environ | {leftovers.MARK: folder.uri})
    another = subprocess.Popen(["sleep", "60"], env=os.environ | {leftovers.MARK: folder.uri + "-2"})
    looks, look = [], runner.what_is_left

    def watched(*arguments):
        looks.append(left_behind.poll())
        return look(*arguments)

    monkeypatch.setattr(runner, "what_is_left", watched)
    runner.run(small_plan(corpus), folder.storage, "run", Settings(executor="inline"))
    assert looks == [None, -signal.SIGKILL], "once before the folder is owned, once after"
    assert another.poll() is None
    another.kill()
    another.wait()


def test_a_driver_waits_for_the_broker_of_a_killed_one_before_it_reads_the_folder(corpus, tmp_path, monkeypatch):
    """On a cluster it is a process that the driver cannot end."""
    (tmp_path / "run").mkdir()
    held, looks, look = lock.books(Folder(tmp_path / "run")), [], runner.what_is_left
    threading.Timer(1.0, held.close).start()
    monkeypatch.setattr(runner, "what_is_left", lambda *arguments: looks.append(held.closed) or look(*arguments))
    sweep(small_plan(corpus), tmp_path)
    assert looks == [False, True], "once before the folder is owned, once after"


def test_a_broker_that_does_not_end_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with lock.books(Folder(tmp_path)), pytest.raises(ValueError, match="still written by the broker of a killed"):
        lock.books(Folder(tmp_path))


def test_two_drivers_on_one_folder_are_refused(corpus, tmp_path):
    folder = Folder(tmp_path / "run").writable()
    with lock.owned(folder), pytest.raises(ValueError, match=r"in use by another sweep \(process \d+"):
        sweep(small_plan(corpus), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"executor": "slurm"}, "executor is 'slurm', expected one of ray, inline"),
        ({"slots": -1}, "slots is -1"),
        ({"gpus": 2.0}, r"gpus is 2\.0"),
        ({"executor": "inline", "address": "auto"}, "uses no cluster"),
        ({"min_workers": -1}, "min_workers is -1"),
        ({"executor": "inline", "min_workers": 2}, "--min-workers is 2 but the inline executor has one worker"),
        ({"address": "auto", "dashboard": False}, "--no-dashboard is for a Ray that is started here"),
        ({"scheduler": "pbt"}, "scheduler is 'pbt', expected one of"),
        ({"executor": "inline", "scheduler": "asha"}, "the inline executor starts none"),
    ],
)
def test_wrong_settings_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)
