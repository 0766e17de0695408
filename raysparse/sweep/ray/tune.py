"""Tune's side of a sweep: a searcher that hands over what the supply gives, and the trial that
relays what a worker reports, so that Tune sees every trial as its own.

The searcher submits a trial to the broker before Tune hears of it; a Tune trial that is lost with
its machine loses nothing. One is submitted beyond those that Tune has, so that a slot finds its
next one waiting; a Tune trial more for that would be a process more. The trial's process is tiny
(no CPU of its own, no torch) and serves one after another. When a scheduler of Tune stops a trial,
the broker is told and the worker stops at its next report. Schedulers compare trials of any
budget at the same share of their runs, which flatters short ones whose rate has fallen already;
`halving` compares only equal budgets. Left out: the rules (`broker`) and what is proposed
(`planners`).
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from raysparse.spec import TrialSpec
from raysparse.sweep.books import Job
from raysparse.sweep.lease import NoLease
from raysparse.sweep.settings import Settings
from raysparse.sweep.supply import Standing, Supply

POLL = (0.05, 0.5)  # seconds between questions, doubled from the first to the last: short trials end soon
DRIVER_SHARE = 0.001  # of a resource that only the driver's machine has
SHARE = "percent"  # of its steps that a trial has taken: the time of a scheduler
GRACE = 25  # percent, before which none is stopped


class Proposals(Searcher):
    """Tune's searcher over a supply. It keeps no state that would be missed: the run folder holds
    all. With a planner nothing is submitted ahead, since it should know how the trials before it
    ended.
    """

    def __init__(self, supply: Supply, broker: ActorHandle[Any]):
        super().__init__()
        self._supply, self._broker = supply, broker
        self._ahead: TrialSpec | NoLease | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial as a configuration, None for "later", FINISHED at the end."""
        spec = self._submitted() if self._ahead is None else self._ahead
        self._ahead = self._submitted() if self._supply.plan.planner is None else None
        if not isinstance(spec, TrialSpec):
            return None if spec is NoLease.WAIT else Searcher.FINISHED
        return {"trial": flat(spec)}

    def _submitted(self) -> TrialSpec | NoLease:
        """The next trial of the supply, which the broker then has."""
        spec = self._supply.next(self._standing)
        if isinstance(spec, TrialSpec):
            ray.get(self._broker.submit.remote(spec))
        return spec

    def _standing(self) -> Standing:
        found: Any = ray.get(self._broker.standing.remote())
        known, remaining = found
        return known, remaining

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing to learn here: the broker has the row."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a sweep continues from its run folder, not from Tune's records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Silent(tune.progress_reporter.TrialProgressCallback):
    """Tune's lines about single trials, which our view shows, come even at verbosity 0."""

    def _print(self, msg: str) -> None:
        pass


def flat(spec: TrialSpec) -> dict[str, Any]:
    """What the dashboard and a scheduler see of a trial."""
    return {
        "id": spec.trial_id, "name": spec.name, "model": spec.model.name, "method": spec.sparsity.method,
        "density": spec.sparsity.density, "unique_tokens": spec.data.unique_tokens, "epochs": spec.data.epochs,
        "lr": spec.optimizer.lr, "weight_decay": spec.optimizer.weight_decay, "seed": spec.seed,
    }  # fmt: skip


def named(trial: Any) -> str:
    """Tune's trials carry our ids."""
    return str(trial.config["trial"]["id"])


def scheduler(name: str) -> TrialScheduler | None:
    """The scheduler of Ray Tune that `Settings` names, on validation loss over the share of a run.

    asha: of those that came to 25 and 75 % of their runs the best third goes on. median: who has
    done worse by then than the median of the others' running means stops.
    """
    what: dict[str, Any] = {"time_attr": SHARE, "metric": "validation_loss", "mode": "min", "grace_period": GRACE}
    if name == "asha":
        return AsyncHyperBandScheduler(max_t=100, reduction_factor=3, **what)
    return MedianStoppingRule(min_samples_required=3, **what) if name == "median" else None


def shown(report: dict[str, Any]) -> dict[str, Any]:
    """A worker's report as Tune sees it."""
    values = {key: value for key, value in report.items() if value is not None}
    return values | {SHARE: 100 * report["step"] / report["steps"]}


def drive(config: dict[str, Any], *, broker: ActorHandle[Any], settings: Settings) -> None:
    """The function that Tune runs for a suggestion: it relays the reports until the trial ends, or
    until a scheduler ends it. Without one it is Tune itself that ends, and the trial goes on.
    """
    trial_id = config["trial"]["id"]
    seen, ended, pause = 0, False, POLL[0]
    try:
        while not ended:
            reports: list[dict[str, Any]]
            reports, ended = ray.get(broker.reports.remote(trial_id, seen))
            for report in reports:
                tune.report(shown(report))
            seen += len(reports)
            if not ended:
                time.sleep(pause)
                pause = min(2 * pause, POLL[1])
    except RayActorError:  # without a broker there is nobody to relay for: the driver sees it, and says so once
        ended = True
    finally:
        if settings.scheduler and not ended:
            broker.stop.remote(trial_id, f"stopped by Ray Tune's scheduler {settings.scheduler!r}")


def beside_the_driver() -> tune.PlacementGroupFactory:
    """A place for a Tune trial on the driver's machine, whatever CPUs that has: on another one it
    could be lost with its machine before it was submitted.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    resources = next(node["Resources"] for node in nodes if node["NodeID"] == here)
    own = next(name for name in resources if name.startswith("node:") and not name.startswith("node:__"))
    return tune.PlacementGroupFactory([{"CPU": 0, own: DRIVER_SHARE}])


def run_tune(broker: ActorHandle[Any], job: Job, slots: int, settings: Settings) -> None:
    """Let Tune run what the supply gives, `slots` at once."""
    tune.Tuner(
        tune.with_resources(tune.with_parameters(drive, broker=broker, settings=settings), beside_the_driver()),
        tune_config=tune.TuneConfig(
            search_alg=Proposals(Supply(job), broker),
            scheduler=scheduler(settings.scheduler),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_name_creator=named,
            trial_dirname_creator=named,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=job.folder.ray, verbose=0, callbacks=[Silent()]),
    ).fit()
