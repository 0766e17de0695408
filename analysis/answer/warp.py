"""Losses as a smooth model sees them: y = c ln(1 + (L - base) / c), nats near the base, logarithms
far above.

Losses are heavy-tailed upward: a run with a bad setting is a nat above its neighbours, and a model
of plain nats would bend to it. The base is what good runs reach, linear in the coordinates, so that
"far above" means badly set, not small: a low quantile of the losses, by a shrunk regression, and
the best loss alone where rows are few. It only says where nats become logarithms; what it misses
the model adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array

WIDTH = 0.15  # of the best loss: where nats become logarithms, for a model that has seen little ...
WIDE = 1.0  # ... and for one that costs of settings are read off: logarithms make a bowl too shallow
FLOOR = 0.05  # of the width: how far below the base, less one, a loss can be said to lie at most
QUANTILE = 0.15  # of the losses lie below the base
ENOUGH = 9  # rows a coefficient, below which the base is flat
FADE, KNEE = 0.3, 0.5  # beyond KNEE c a row is believed to FADE times its distance from there
SHRINK = 0.5  # ridge on the base's slopes, in rows
REACH = 1.2  # half-ranges beyond which the base stays level


@dataclass(frozen=True)
class Plane:
    """A linear base, nats: a level and slopes (k,) by coordinates (n, k) in half-ranges."""

    level: float
    slopes: Array

    def __call__(self, coordinates: Array) -> Array:
        return np.asarray(self.level + np.clip(coordinates, -REACH, REACH) @ self.slopes)


@dataclass(frozen=True)
class Warp:
    """base: (n,) what good runs reach, nats, at (n, k) coordinates; width: c, nats."""

    base: Callable[[Array], Array]
    width: float

    @classmethod
    def of(cls, coordinates: Array, loss: Array, share: float = WIDTH) -> Warp:
        """share: of the best loss, where nats become logarithms."""
        best = float(loss.min())
        width = share * best
        rows, count = coordinates.shape
        if rows < ENOUGH * (count + 1):
            return cls(Plane(best, np.zeros(count)), width)
        return cls(Plane(*_low(coordinates, loss)), width)

    def inward(self, loss: ArrayLike, base: Array) -> Array:
        """y of losses, given the base at each."""
        excess = np.maximum((np.asarray(loss, dtype=float) - base) / self.width, FLOOR - 1)
        return np.asarray(self.width * np.log1p(excess))

    def outward(self, value: ArrayLike, base: Array) -> Array:
        """The loss of each y."""
        return np.asarray(base + self.width * np.expm1(np.asarray(value, dtype=float) / self.width))

    def loudness(self, value: Array, noise: float) -> Array:
        """(n,) how unsure each row's y is, in units of `noise` (nats): a run's noise is equal in
        nats, and so less in y the farther above; but far above (a diverged run, a cliff) the y only
        says "bad", and a smooth model shall not bend to it.
        """
        far = FADE * np.maximum(value - KNEE * self.width, 0.0) / noise
        return np.asarray(np.hypot(self.steepness(value), far))

    def steepness(self, value: Array) -> Array:
        """(n,) dy / dL at y."""
        return np.asarray(np.exp(-value / self.width))

    def moments(self, mean: Array, sd: Array, base: Array) -> tuple[Array, Array]:
        """Mean and sd of the loss when y is normal with these: L is a shifted lognormal."""
        ratio = np.minimum((sd / self.width) ** 2, 2.0)
        centre = self.width * np.exp(mean / self.width + 0.5 * ratio)
        return base - self.width + centre, centre * np.sqrt(np.expm1(ratio))

    def improvement(self, mean: Array, sd: Array, base: Array, below: float) -> Array:
        """E[max(below - L, 0)] when y is normal: the formula of Black and Scholes."""
        from scipy.special import ndtr

        reach, sd = np.maximum(below - base + self.width, 1e-12), np.maximum(sd, 1e-12)
        at = (self.width * np.log(reach / self.width) - mean) / sd
        rest = self.width * np.exp(mean / self.width + 0.5 * (sd / self.width) ** 2) * ndtr(at - sd / self.width)
        return np.asarray(np.maximum(reach * ndtr(at) - rest, 0.0))


def _low(coordinates: Array, loss: Array) -> tuple[float, Array]:
    """Level and slopes of a low quantile of the losses: check loss by reweighted least squares."""
    design = np.column_stack([np.ones(len(loss)), coordinates])
    ridge = SHRINK * np.eye(design.shape[1])
    ridge[0, 0] = 0.0
    blur = 0.1 * float(np.std(loss)) + 1e-9
    found = np.concatenate([[np.quantile(loss, QUANTILE)], np.zeros(coordinates.shape[1])])
    for _ in range(60):
        gap = loss - design @ found
        weight = np.where(gap > 0, QUANTILE, 1 - QUANTILE) / np.maximum(np.abs(gap), blur) * blur
        weighted = design * weight[:, None]
        found = np.linalg.solve(weighted.T @ design + ridge * weight.mean(), weighted.T @ loss)
    return float(found[0]), found[1:]
