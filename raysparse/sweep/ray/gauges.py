"""What Ray's metrics export of a running sweep: gauges that Prometheus collects with Ray's own, and
that the Grafana dashboard `clusters/grafana.json` draws.

The driver sets them from the same record that its view draws, so that a graph and the terminal
never disagree, and so that no trial pays for them. Ray puts `ray_` before every name. It exports
what was set since the last collection only, so the curves of a trial end with it.
"""

from __future__ import annotations

from ray.util.metrics import Gauge

from raysparse.sweep.snapshot import Running, Snapshot

# name -> the field of `Running`, and what it is
OF_A_TRIAL = {
    "loss": ("loss", "training loss of a running trial, nats per token"),
    "validation_loss": ("validation_loss", "last validation loss of a running trial, nats per token"),
    "tokens_per_second": ("tokens_per_second", "tokens that a running trial trains on in a second"),
    "steps_ratio": ("share", "share of its steps that a running trial has taken, 0 to 1"),
    "density": ("density", "share of the sparse matrices' weights that are active, 0 to 1"),
}
OF_THE_BUDGET = {
    "spent": ("spent", "what a sweep has spent, in the unit of its budget"),
    "left": ("left", "what a sweep may still spend, in the unit of its budget"),
}


class Gauges:
    """The gauges of one sweep. `unit` is that of its budget."""

    def __init__(self, sweep: str, unit: str):
        self._sweep, self._unit = {"sweep": sweep}, {"sweep": sweep, "unit": unit}
        labels, of_sweep = ("sweep", "trial", "id", "size"), ("sweep", "unit")
        self._trial = {f: Gauge(f"raysparse_trial_{name}", said, labels) for name, (f, said) in OF_A_TRIAL.items()}
        self._budget = {
            f: Gauge(f"raysparse_budget_{name}", said, of_sweep) for name, (f, said) in OF_THE_BUDGET.items()
        }
        self._trials = Gauge("raysparse_trials", "trials of this session by status", ("sweep", "status"))
        self._counts: dict[str, int] = {}

    def show(self, now: Snapshot) -> None:
        """Set every gauge to what `now` says; what it does not know is not set."""
        for one in now.running:
            for field, gauge in self._trial.items():
                gauge.set(getattr(one, field), self._labels(one))
        self._counts = dict.fromkeys(self._counts, 0) | now.counts
        for status, count in self._counts.items():
            self._trials.set(count, self._sweep | {"status": status})
        for field, gauge in self._budget.items():
            gauge.set(getattr(now, field), self._unit)

    def _labels(self, one: Running) -> dict[str, str]:
        return self._sweep | {"trial": one.name, "id": one.trial_id, "size": one.size}
