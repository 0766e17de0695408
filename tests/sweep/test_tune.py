"""A planner under a real Ray: Tune sees one trial a suggestion, makes those that inline
makes, and a killed search goes on as it would have.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Results
from raysparse.run_folder import STUDY, RunFolder
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec
from raysparse.sweep.budget import Budget
from raysparse.sweep.halving import Halving
from raysparse.sweep.lease import NoLease
from raysparse.sweep.plan import Plan, load
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Space
from raysparse.sweep.ray import tune
from raysparse.sweep.settings import Settings
from tests.chaos.plans import many
from tests.sweep import runs

pytestmark = pytest.mark.slow


class Queue:
    """A supply and a broker, without their processes: `submit.remote(spec)` is noted."""

    def __init__(self, specs, planner=None):
        self.specs, self.submitted = list(specs), []
        self.plan = SimpleNamespace(planner=planner)
        self.submit = SimpleNamespace(remote=lambda spec: self.submitted.append(spec.trial_id))

    def next(self, standing):
        return self.specs.pop(0) if self.specs else NoLease.CLOSED


def test_one_trial_waits_at_the_broker_beyond_those_that_tune_has(corpus, monkeypatch):
    monkeypatch.setattr(tune.ray, "get", lambda answer: answer)
    specs = many(corpus, 3).specs
    ids = [spec.trial_id for spec in specs]
    for planner, ahead in ((None, [2, 3, 3]), (object(), [1, 2, 3])):
        queue = Queue(specs, planner)
        proposals = tune.Proposals(queue, queue)
        for n, submitted in enumerate(ahead):
            assert proposals.suggest(f"{n}")["trial"]["id"] == ids[n]
            assert queue.submitted == ids[:submitted]
        assert proposals.suggest("end") == proposals.FINISHED


def recipe_for(corpus: str) -> Recipe:
    return Recipe(
        vocab_size=257, context=64, data=DataSpec(corpus=corpus, validation_tokens=1_000),
        sparsity=SparsitySpec(update_every=5), optimizer=OptimizerSpec(batch_sequences=4), evaluations=4,
    )  # fmt: skip


AXES = ["size=laptop-xs", "density=1,0.5", "epochs=2,4,8", "weight_decay=0.1..10"]
RATES = ["size=laptop-xs", "density=1,0.5", "epochs=6", "lr=0.0003..1"]


def search_plan(corpus: str, *, axes: list[str] = AXES, stopping: Halving | None = None) -> Plan:
    """A search of six trials of a second each."""
    planner = Search(
        recipe=recipe_for(corpus), space=Space.parse(axes, 257), unique_tokens=4_097, sampler="tpe", trials=6
    )
    placement = Placement(checkpoint_seconds=0.2)
    return Plan(planner=planner, stopping=stopping, placement=placement, budget=Budget(total=1e13))


@pytest.fixture(scope="module")
def inline(corpus, tmp_path_factory):
    storage = tmp_path_factory.mktemp("inline")
    runs.undisturbed(search_plan(corpus), storage)
    return storage


def proposed(storage) -> list[str]:
    return [spec.trial_id for spec in load(RunFolder.named(Folder(storage), "run")).specs]


def test_tune_runs_one_trial_a_suggestion_and_suggestions_and_what_halving_stops_are_those_of_inline(corpus, tmp_path):
    plan = search_plan(corpus, axes=RATES, stopping=Halving(keep=2, first=0.25))
    inline = tmp_path / "inline"
    runs.undisturbed(plan, inline)
    said = runs.finish(plan, tmp_path, "--slots", "1")
    assert proposed(tmp_path) == proposed(inline)
    assert runs.losses(tmp_path) == runs.losses(inline)
    rows = Results(RunFolder.named(Folder(tmp_path), "run")).rows()
    pruned = [row for row in rows if row["status"] == "pruned"]
    assert len(rows) == 6
    assert pruned, "a rate a thousand times too small is stopped"
    assert all(row["reason"].startswith("halving at ") for row in pruned)
    assert all(row["tokens"] < json.loads(row["spec"])["data"]["epochs"] * 4_097 for row in pruned)
    folders = [path.name for path in (tmp_path / "run" / "ray" / "tune").iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(proposed(tmp_path)), "one Tune trial a suggestion, under its id"
    assert "optuna-dashboard" in said


def test_a_driver_killed_in_mid_search_goes_on_as_it_would_have(corpus, inline, tmp_path):
    plan = search_plan(corpus)
    driver = runs.start(plan, tmp_path, "--executor", "inline")
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 3, driver, tmp_path)
    runs.kill(driver.pid)
    driver.wait()
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "journal").glob("*.json")}
    (tmp_path / "run" / STUDY).unlink()  # lost: it is written again from the rows
    assert runs.undisturbed(plan, tmp_path) == runs.losses(inline)
    assert proposed(tmp_path) == proposed(inline)
    assert {path: path.stat().st_mtime_ns for path in first} == first, "a finished trial was run again"
    assert studied(tmp_path) >= set(proposed(tmp_path)[:-1]), "the study in the folder is whole"


def studied(storage) -> set[str]:
    """The trial ids in the Optuna study of a run folder."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(storage / "run" / STUDY)))
    [summary] = optuna.get_all_study_summaries(storage)
    found = optuna.load_study(study_name=summary.study_name, storage=storage)
    return {trial.user_attrs["trial_id"] for trial in found.trials}


@pytest.mark.parametrize(("scheduler", "stopped"), [("", []), ("asha", ["a"])])
def test_only_a_scheduler_of_tune_ends_a_trial(monkeypatch, scheduler, stopped):
    """Where Tune itself ends, by an error of a planner, its trials go on in their workers."""
    told = []
    stop, reports = (lambda trial_id, _: told.append(trial_id)), (lambda *_: None)
    broker = SimpleNamespace(stop=SimpleNamespace(remote=stop), reports=SimpleNamespace(remote=reports))

    def ended(_):
        raise SystemExit(0)  # what Tune does to the thread of a trial that it stops

    monkeypatch.setattr(tune.ray, "get", ended)
    with pytest.raises(SystemExit):
        tune.drive({"trial": {"id": "a"}}, broker=broker, settings=Settings(scheduler=scheduler))
    assert told == stopped


def test_a_scheduler_of_tune_stops_trials_and_their_rows_say_so(corpus, tmp_path):
    recipe, axes = recipe_for(corpus).replace(evaluations=8), {"sizes": ["laptop-xs"], "densities": [1.0]}
    rates = {24: [4e-3, 3e-3, 2e-3], 23: [1e-7]}  # the costliest run first, so the bad one is the last
    specs = [
        spec
        for epochs, values in rates.items()
        for spec in grid(recipe, **axes, unique_tokens=[4_097], epochs=[epochs], settings={"optimizer.lr": values})
    ]
    runs.finish(Plan(specs=tuple(specs)), tmp_path, "--slots", "1", "--scheduler", "median")
    rows = {row["lr"]: row for row in Results(RunFolder.named(Folder(tmp_path), "run")).rows()}
    assert len(rows) == 4
    assert [rows[lr]["status"] for lr in (4e-3, 3e-3, 2e-3)] == ["completed"] * 3
    worst = rows[1e-7]
    assert (worst["status"], worst["reason"]) == ("pruned", "stopped by Ray Tune's scheduler 'median'")
    assert 0.25 * specs[-1].steps <= worst["steps"] < specs[-1].steps
