"""A truth with a moving optimum in weight decay and rate, for tests and the benchmark: the loss as
ANSWER.md's tables of real runs behave.

ln of the best decay grows with ln N and falls with ln U; low decay over-fits with epochs, high
decay costs a little everywhere. Nothing is asserted here.
"""

from __future__ import annotations

import numpy as np

from analysis.data.points import Array, Points
from analysis.data.table import Runs
from tests.analysis.tables import LAW, TRUTH

SIZES = np.array([40_000.0, 80_000.0, 160_000.0])
UNIQUE = 50_000.0


def best_decay(points: Points) -> Array:
    """The weight decay of least loss at each point."""
    epochs = points.log_tokens - points.log_unique
    shifted = 0.5 * (points.log_active - np.log(8e4)) - 0.6 * (points.log_unique - np.log(5e4))
    return np.exp(shifted + 0.35 * (epochs - np.log(9.0)) + 0.2 * points.log_density)


def envelope(points: Points) -> Array:
    """The loss at each point's own best settings, nats."""
    return 0.55 * LAW.predict(TRUTH, points) + 0.35


def loss(points: Points, decay: Array) -> Array:
    """The expected loss at a weight decay: over-fitting below the best one, waste above it."""
    off = np.log((decay + 0.03) / best_decay(points))
    epochs = points.tokens / points.unique
    return envelope(points) + 0.03 * off**2 * (1 + 0.25 * np.sqrt(epochs) * (off < 0))


def table(rows: int, noise: float = 0.02, seed: int = 0, seeds: int = 1) -> Runs:
    """Random runs inside one box, as a search would leave them."""
    generator = np.random.default_rng(seed)
    points = Points.at(
        generator.choice(SIZES, rows),
        generator.choice([1.0, 0.5, 0.25], rows),
        UNIQUE,
        UNIQUE * np.exp(generator.uniform(np.log(3), np.log(48), rows)),
    )
    decay = np.exp(generator.uniform(np.log(0.1), np.log(10), rows))
    again = np.repeat(np.arange(rows), seeds)
    points, decay = points.take(again), decay[again]
    measured = loss(points, decay) + noise * generator.standard_normal(len(again))
    return Runs.from_arrays(
        points.active, points.density, points.unique, points.tokens, measured, settings={"weight_decay": decay}
    )
