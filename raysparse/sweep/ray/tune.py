"""A Tune trial: it submits its spec to the broker and relays what the worker reports, so that Tune
sees every trial as its own.

The process is tiny (0.01 CPU, no torch) and serves trial after trial. When a scheduler of Tune
stops the trial, the broker is told and the worker stops at its next evaluation. Left out: the rules
(`broker`).
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle

from raysparse.spec import TrialSpec

POLL = 0.5  # seconds


def flat(spec: TrialSpec) -> dict[str, Any]:
    """What the dashboard and a searcher see of a trial."""
    return {
        "id": spec.trial_id, "model": spec.model.name, "method": spec.sparsity.method, "density": spec.sparsity.density,
        "unique_tokens": spec.data.unique_tokens, "epochs": spec.data.epochs, "seed": spec.seed,
    }  # fmt: skip


def named(trial: Any) -> str:
    """Tune's trials carry our ids."""
    return str(trial.config["trial"]["id"])


def drive(config: dict[str, Any], *, broker: ActorHandle[Any], specs: dict[str, TrialSpec]) -> None:
    """The function that Tune runs for `config["trial"]`, which is `flat` of one of `specs`."""
    spec = specs[config["trial"]["id"]]
    ray.get(broker.submit.remote(spec))
    seen, ended = 0, False
    try:
        while not ended:
            reports, ended = ray.get(broker.reports.remote(spec.trial_id, seen))
            for report in reports:
                tune.report({key: value for key, value in report.items() if value is not None})
            seen += len(reports)
            if not ended:
                time.sleep(POLL)
    finally:
        broker.stop.remote(spec.trial_id, "stopped by the search")
