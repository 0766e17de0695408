"""How much less compute sparsity needs than dense does for the same loss, and what is as good for
less.

Both sides may spend less than the budget and each stands at its own best size and epochs, so
nothing that dense gains by stopping earlier is called a saving. The loss to reach is one that both
reach: the worse of the two optima and a tolerance. Everything is read from one grid over the box,
for all draws at once; its steps (5 to 15 % of cost) limit the resolution. Left out: settings
(`gain`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.answer.costs import Cost
from analysis.answer.optimum import Box, Predictor
from analysis.data.points import Array, Points

TOLERANCE = 0.003  # nats per token: losses nearer than this are called equal
SIDES = (31, 25)  # token counts and sizes of the grid, at each density
LEVELS = 6  # sparse densities of the grid


@dataclass(frozen=True)
class Affordable:
    """Points of a box within a budget, (m,), with their costs and (b, m) losses of b draws."""

    points: Points
    cost: Array
    loss: Array

    @property
    def dense(self) -> Array:
        """(m,) which points are dense."""
        return np.asarray(self.points.density == 1.0)

    def saving(self) -> Array:
        """(b,) cost of the cheapest dense point that reaches the common loss over that of the
        cheapest sparse one; NaN where the box has only one of them. Below 1 sparsity costs more.
        """
        dense = self.dense
        if dense.all() or not dense.any():
            return np.full(len(self.loss), np.nan)
        best = [self.loss[:, side].min(axis=1) for side in (dense, ~dense)]
        target = np.maximum(*best)[:, None] + TOLERANCE
        costs = [
            np.where(self.loss[:, side] <= target, self.cost[side], np.inf).min(axis=1) for side in (dense, ~dense)
        ]
        return np.asarray(costs[0] / costs[1])

    def cheapest(self, loss: float) -> int:
        """The cheapest point whose estimated loss is at most `loss` and the tolerance; -1 if none
        is.
        """
        cost = np.where(self.loss[0] <= loss + TOLERANCE, self.cost, np.inf)
        return int(np.argmin(cost)) if np.isfinite(cost).any() else -1


def affordable(
    predictor: Predictor, theta: Array, box: Box, sparse: float, budget: float, unique: float | None, cost: Cost
) -> Affordable:
    """The grid. theta: (b, p), the estimate first. sparse: the largest density called sparse."""
    low, high = box.density
    densities = [np.geomspace(low, min(sparse, high), LEVELS)] if low < 1 else []
    density = np.unique(np.concatenate([*densities, [1.0] if high == 1 else []]))
    least, most = box.tokens
    if unique is not None:
        least, most = max(least, unique * box.epochs[0]), min(most, unique * box.epochs[1])
    axes = np.meshgrid(density, np.geomspace(least, most, SIDES[0]), np.geomspace(*box.active, SIDES[1]), indexing="ij")
    d, trained, size = (axis.ravel() for axis in axes)
    points = Points.at(size, d, trained if unique is None else unique, trained)
    points = points.take(cost.of(points) <= budget * (1 + 1e-9))
    return Affordable(points, cost.of(points), np.exp(predictor.log_loss(theta, points)))
