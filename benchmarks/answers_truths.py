"""Nine worlds whose loss is known, for `analysis_answers`: tables drawn from them, their best run.

Most are no law of ours; each table has its own numbers, drawn from its seed. The plan is the
default sweep's (3 sizes, 3 densities, 2 U, 3 epoch counts: 54 rows, noise .01), or the same runs,
each with a random weight decay whose best value moves with size, epochs and density. The decay adds
nothing at its best, so the best run of a world is the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.optimum import Box
from analysis.answer.simulate import grid
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.laws import named

NOISE = 0.01
DECAY = (0.1, 10.0)  # range of the random weight decay
FINE = (9, 49, 41)  # densities, epochs and sizes on which the true optimum is looked for
LAW = named("sparse_small_overfit")
Loss = Callable[[Points], Array]


@dataclass(frozen=True)
class Truth:
    """One true world. loss: (n,) expected nats per token; noise: (n,) sd of log loss."""

    loss: Loss
    noise: Callable[[Points], Array]
    outlier: bool = False


def flat(points: Points) -> Array:
    return np.full(len(points), NOISE)


def base(generator: np.random.Generator, **changes: float) -> Loss:
    """The law of plausible numbers, moved by some per cent."""
    values = {
        "ln_A": np.log(24.0),
        "ln_B": np.log(160.0),
        "ln_E": np.log(0.9),
        "alpha": 0.28,
        "beta": 0.42,
        "k": -0.25,
        "ln_R_D": np.log(5.0),
        "ln_K": -5.0,
        "q": 1.2,
        "r": 0.5,
    }
    moved = {name: value + 0.05 * generator.standard_normal() for name, value in values.items()} | changes
    moved |= {"alpha": 0.28 + 0.02 * generator.standard_normal(), "beta": 0.42 + 0.02 * generator.standard_normal()}
    theta = LAW.vector(moved)
    return lambda points: np.asarray(LAW.predict(theta, points))


def sizes(points: Points) -> Array:
    """Size in units of the middle of the plan, as a logarithm."""
    return np.asarray(points.log_active - np.log(2.5e5))


def interactions(generator: np.random.Generator) -> Truth:
    """Sparsity helps less the longer and the larger."""
    plain, turn = base(generator), 0.02 * generator.uniform(0.5, 1.5)

    def loss(p: Points) -> Array:
        bend = turn * (1 - p.density) * (np.log(p.epochs) - 1) * (1 + sizes(p))
        return np.asarray(plain(p) * (1 + bend))

    return Truth(loss, flat)


def periodic(generator: np.random.Generator) -> Truth:
    plain, phase = base(generator), generator.uniform(0, 2 * np.pi)
    return Truth(lambda p: plain(p) * (1 + 0.012 * np.sin(phase + 2.5 * p.log_active + 1.5 * p.log_tokens)), flat)


def noisy(generator: np.random.Generator) -> Truth:
    return Truth(base(generator), lambda p: NOISE * np.exp(0.5 * sizes(p)))


def mistuned(generator: np.random.Generator) -> Truth:
    plain, slope = base(generator), generator.uniform(0.02, 0.05)
    return Truth(lambda p: plain(p) + slope * np.maximum(sizes(p) + 0.5, 0) ** 2, flat)


def late(generator: np.random.Generator) -> Truth:
    plain, start = base(generator, ln_K=-12.0), generator.uniform(3.0, 5.0)
    return Truth(lambda p: plain(p) + 0.05 * np.maximum(p.epochs - start, 0) * np.exp(0.4 * sizes(p)), flat)


def coupled(generator: np.random.Generator) -> Truth:
    power = generator.uniform(0.7, 0.85)
    plain = base(generator)
    return Truth(lambda p: 0.9 + np.maximum(plain(p) - 0.9, 1e-3) ** power, flat)


def smooth(generator: np.random.Generator) -> Truth:
    """The law times a random smooth function of all coordinates, sd .03."""
    plain = base(generator)
    turns, phases = generator.standard_normal((64, 4)) * 0.6, generator.uniform(0, 2 * np.pi, 64)
    loads = generator.standard_normal(64) * np.sqrt(2 / 64) * 0.03

    def loss(p: Points) -> Array:
        where = np.stack([sizes(p), 2 * p.log_density, p.log_unique - 11.4, np.log(p.epochs) - 1], axis=-1)
        return np.asarray(plain(p) * np.exp(np.cos(where @ turns.T + phases) @ loads))

    return Truth(loss, flat)


TRUTHS: dict[str, Callable[[np.random.Generator], Truth]] = {
    "in the family": lambda g: Truth(base(g), flat),
    "interactions": interactions,
    "log-periodic": periodic,
    "noise grows with size": noisy,
    "one outlier": lambda g: Truth(base(g), flat, outlier=True),
    "large models mis-tuned": mistuned,
    "late over-fitting": late,
    "not additive": coupled,
    "smooth random": smooth,
}


def table(truth: Truth, generator: np.random.Generator, settings: bool = False) -> Runs:
    plan = grid([8e4, 2.9e5, 9.6e5], [1, 0.5, 0.25], [5e4, 1.5e5], [1, 3, 9])
    loss = truth.loss(plan) * np.exp(truth.noise(plan) * generator.standard_normal(len(plan)))
    if truth.outlier:
        loss[generator.integers(len(plan))] *= 1.15
    chosen = None
    if settings:
        chosen = {"weight_decay": np.exp(generator.uniform(*np.log(DECAY), len(plan)))}
        loss = loss + mistaken(plan, chosen["weight_decay"])
    return Runs.from_arrays(plan.active, plan.density, plan.unique, plan.tokens, loss, chosen)


def best_decay(points: Points) -> Array:
    """(n,) the weight decay that adds nothing."""
    return np.exp(0.5 * sizes(points) + 0.35 * (np.log(points.epochs) - 1) + 0.2 * points.log_density)


def mistaken(points: Points, decay: Array) -> Array:
    """(n,) what a weight decay off its best costs, nats."""
    return np.asarray(0.04 * np.log(decay / best_decay(points)) ** 2)


class Known:
    """A truth where a law is expected: what `savings` compares."""

    grows = False

    def __init__(self, truth: Truth):
        self.truth = truth

    def log_loss(self, theta: Array, points: Points) -> Array:
        """(1, n) whatever the one row of theta."""
        return np.log(self.truth.loss(points))[None]


def best_possible(truth: Truth, box: Box, budget: float, unique: float) -> tuple[float, float, float]:
    """Least true loss within the budget, and its density and epochs.

    Sizes go from the box's least to what the budget leaves, so that the cap itself is looked at.
    """
    sides = (np.geomspace(*box.density, FINE[0]), np.geomspace(*box.epochs, FINE[1]), np.linspace(0, 1, FINE[2]))
    density, epochs, share = (axis.ravel() for axis in np.meshgrid(*sides))
    low, high = np.log(box.active)
    log_tokens = np.log(unique * epochs)
    top = np.minimum(high, ACTIVE.log_active(np.log(budget), log_tokens, np.log(density)))
    points = Points.at(np.exp(low + share * np.maximum(top - low, 0)), density, unique, unique * epochs)
    loss = np.where(ACTIVE.of(points) <= budget * (1 + 1e-9), truth.loss(points), np.inf)
    row = int(np.argmin(loss))
    return float(loss[row]), float(density[row]), float(epochs[row])
