"""Losses as a smooth model sees them: y = c ln(1 + (L - base) / c), nats near the base, logarithms
far above.

Losses are heavy-tailed upward: a run with a bad setting is a nat above its neighbours, and a model
of plain nats would bend to it. The base is what good runs reach (`baseline`), so that "far above"
means badly set, not small. It also says what is expected beforehand; what it misses the model adds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array

WIDTH = 0.15  # of the best loss: where nats become logarithms
FLOOR = 0.05  # of the width: how far below the base, less one, a loss can be said to lie at most
FADE, KNEE = 0.3, 0.5  # beyond KNEE c a row is believed to FADE times its distance from there


@dataclass(frozen=True)
class Warp:
    """base: loss in nats of good runs at (..., k) columns of the coordinates; width: c, nats."""

    base: Callable[[Array], Array]
    width: float

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
        return np.asarray(np.hypot(np.exp(-value / self.width), far))

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
