"""A truth to search in: the published sparse law, over-fitting that weight decay removes, and a
learning rate; and a table of real trials.

The response in weight decay has the shape of our own measurements at 9 and 27 epochs: no decay
costs .21 and 1.56 nats there, a third of the best one a fifth of that, three times the best about
.1. Its best value moves as others found: up with size and with epochs, down with unique tokens
(arXiv 2509.14786), down with the rate and with sparsity. No fit starts from anything here.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.data.points import Array, Points
from analysis.laws import named, published_vector
from raysparse import ladder
from raysparse.placement import Placement
from raysparse.results import Outcome, make_row
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.base import Known
from raysparse.sweep.planners.candidates import points_of

LAW = named("sparse_published")
REFERENCE = (2e8, 2e8, 8.0)  # active weights, unique tokens, epochs at which the best decay is 1
WITHOUT = 0.2  # nats that a run of 9 epochs loses without decay ...
LONGER, LARGER = 1.6, 0.3  # ... with these powers of its epochs / 9 and its size
HALF = 4.0  # squared logarithm of the decay at which half of that is lost
HIGH = 0.08  # nats for each squared logarithm above the best decay
RATE = 0.06  # nats for each squared logarithm of the rate; half as much again above the best one


def best_decay(points: Points, rate: Array) -> Array:
    """(n,) the weight decay of least loss; rate: factor on the size's own."""
    active, unique, epochs = REFERENCE
    passes = points.log_tokens - points.log_unique
    moved = 0.6 * (points.log_active - np.log(active)) - 0.6 * (points.log_unique - np.log(unique))
    return np.exp(moved + 0.35 * (passes - np.log(epochs)) + 0.2 * points.log_density - 0.5 * np.log(rate))


def loss(points: Points, decay: Array, rate: Array) -> Array:
    """(n,) expected loss, nats per token; decay and rate (a factor) are (n,)."""
    off = np.log((decay + 1e-3) / best_decay(points, rate))
    size = points.log_active - np.log(REFERENCE[0])
    low = WITHOUT * (points.epochs / 9) ** LONGER * np.exp(LARGER * size) / (off**2 + HALF)
    fast = np.log(rate) - 0.15 * size
    penalty = np.where(off < 0, low, HIGH) * off**2 + RATE * fast**2 * np.where(fast > 0, 1.5, 1.0)
    return np.asarray(LAW.predict(published_vector(), points) + penalty)


@dataclass(frozen=True)
class Simulated:
    """Trials of a truth with noise; a trial's noise is a function of its id and the seed."""

    noise: float
    seed: int

    def expected(self, specs: Sequence[TrialSpec]) -> Array:
        """(n,) the loss that no seed has moved."""
        rate = np.array([spec.optimizer.lr / ladder.dense_lr(spec.model) for spec in specs])
        decay = np.array([spec.optimizer.weight_decay for spec in specs])
        return loss(points_of(specs), decay, rate)

    def known(self, spec: TrialSpec) -> Known:
        """The trial as it ends."""
        draw = np.random.default_rng([self.seed, int(spec.trial_id, 16)]).standard_normal()
        return ended(spec, float(self.expected([spec])[0] + self.noise * draw))


def ended(spec: TrialSpec, value: float) -> Known:
    """A completed trial with this loss."""
    outcome = Outcome(status="completed", validation_loss=value, steps=spec.steps, tokens=spec.tokens, seconds=1.0)
    return Known(spec, "completed", value, make_row(spec, Placement(), outcome))


@dataclass(frozen=True)
class Measured:
    """Real trials to look up. rows: (size, density, epochs, weight decay) -> losses by seed."""

    rows: Mapping[tuple[str, float, float, float], Mapping[int, float]]

    @classmethod
    def read(cls, path: Path) -> Measured:
        found: dict[tuple[str, float, float, float], dict[int, float]] = {}
        with path.open() as lines:
            for row in csv.DictReader(line for line in lines if not line.startswith("#")):
                if row["decay_per"] != "own_rate":
                    continue  # its values are of another unit
                key = (row["model"], float(row["density"]), float(row["epochs"]), float(row["weight_decay"]))
                found.setdefault(key, {})[int(row["seed"])] = float(row["validation_loss"])
        return cls(found)

    def axes(self) -> list[tuple[Any, ...]]:
        """The levels of size, density, epochs and weight decay."""
        return [tuple(sorted(set(levels))) for levels in zip(*self.rows, strict=True)]

    @staticmethod
    def key(spec: TrialSpec) -> tuple[str, float, float, float]:
        return spec.model.name, spec.sparsity.density, spec.data.epochs, spec.optimizer.weight_decay

    def expected(self, specs: Sequence[TrialSpec]) -> Array:
        """(n,) mean loss over seeds."""
        return np.array([np.mean(list(self.rows[self.key(spec)].values())) for spec in specs])

    def known(self, spec: TrialSpec) -> Known:
        """The trial as it was measured; a seed beyond the measured ones is one of them again."""
        values = self.rows[self.key(spec)]
        seeds = sorted(values)
        return ended(spec, values[seeds[spec.seed % len(seeds)]])
