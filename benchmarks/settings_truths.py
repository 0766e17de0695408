"""Losses with settings whose truth is known, for tests and for `analysis_settings`.

Four truths, made after the tables of real runs in which low weight decay over-fits with epochs,
high decay wastes capacity, and the best decay grows with N and epochs and falls with U. None is in
the family of the model that is tested: `moving` is a kinked parabola about a moving optimum,
`exploding` adds an over-fitting term that decay divides, `rated` has a learning rate beside the
decay, `wavy` adds slow waves to `moving`, of which no smooth law knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array, Points
from analysis.data.table import Runs

SIZES = (40_000.0, 80_000.0, 160_000.0)  # of a dense model; a sparse one keeps a fifth and its share
DENSITIES = (1.0, 0.5, 0.25)
UNIQUE = 50_000.0
EPOCHS = (3.0, 48.0)
RANGES = {"weight_decay": (0.1, 10.0), "lr": (5e-4, 1e-2)}
Settings = Mapping[str, Array]


@dataclass(frozen=True)
class Truth:
    """A known loss. settings: the names it depends on; loss: (n,) nats of points and settings."""

    name: str
    settings: tuple[str, ...]
    loss: Callable[[Points, Settings], Array]

    def table(self, rows: int, noise: float = 0.02, seed: int = 0, seeds: int = 1) -> Runs:
        """Random runs inside one box, as a search would leave them."""
        generator = np.random.default_rng(seed)
        density = generator.choice(DENSITIES, rows)
        active = generator.choice(SIZES, rows) * (0.2 + 0.8 * density)
        epochs = np.exp(generator.uniform(*np.log(EPOCHS), rows))
        settings = {name: np.exp(generator.uniform(*np.log(RANGES[name]), rows)) for name in self.settings}
        again = np.repeat(np.arange(rows), seeds)
        points = Points.at(active, density, UNIQUE, UNIQUE * epochs).take(again)
        chosen = {name: values[again] for name, values in settings.items()}
        loss = self.loss(points, chosen) + noise * generator.standard_normal(len(again))
        return Runs.from_arrays(points.active, points.density, points.unique, points.tokens, loss, chosen)


def base(points: Points) -> Array:
    """The loss without any trouble: more of everything is better."""
    size = points.active * points.density**-0.35
    return 1.55 + 12.0 * size**-0.35 + 34.0 * points.tokens**-0.38


def best_decay(points: Points) -> Array:
    """The weight decay of least loss under `moving` and `rated`."""
    epochs = points.log_tokens - points.log_unique
    return np.exp(0.5 * (points.log_active - np.log(8e4)) + 0.35 * (epochs - np.log(9.0)) + 0.2 * points.log_density)


def envelope(points: Points) -> Array:
    """The loss of `moving` and `rated` at each point's own best settings: tired of repetition."""
    tired = np.maximum(np.log(points.tokens / points.unique / 16.0), 0.0) ** 2
    return base(points) + 0.06 * tired * (points.active / 8e4) ** 0.5


def moving(points: Points, settings: Settings) -> Array:
    off = np.log(settings["weight_decay"] / best_decay(points))
    epochs = points.tokens / points.unique
    return np.asarray(envelope(points) + 0.04 * off**2 * (1 + 0.25 * np.sqrt(epochs) * (off < 0)))


def exploding(points: Points, settings: Settings) -> Array:
    decay, epochs = settings["weight_decay"], points.tokens / points.unique
    fitted = 0.010 * epochs**1.2 * (points.active / 8e4) ** 0.6 / (1 + 2.0 * decay) ** 1.6
    return np.asarray(base(points) + fitted + 0.02 * np.log1p(decay) ** 2 * (1 + 8.0 / epochs))


def rated(points: Points, settings: Settings) -> Array:
    best = 2.5e-3 * (points.active / 8e4) ** -0.3
    off = np.log(settings["lr"] / best)
    pull = np.log(settings["weight_decay"] / best_decay(points)) + 0.5 * off
    return np.asarray(envelope(points) + 0.05 * off**2 + 0.03 * pull**2)


def wavy(points: Points, settings: Settings) -> Array:
    wave = np.sin(1.7 * points.log_active + 1.1 * points.log_tokens) + np.sin(2.1 * np.log(settings["weight_decay"]))
    return np.asarray(moving(points, settings) + 0.02 * wave)


DECAY = ("weight_decay",)
TRUTHS = (
    Truth("moving", DECAY, moving),
    Truth("exploding", DECAY, exploding),
    Truth("rated", ("weight_decay", "lr"), rated),
    Truth("wavy", DECAY, wavy),
)
