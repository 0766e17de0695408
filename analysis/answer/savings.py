"""How much less compute sparsity needs than dense does for the same loss, and what is as good for
less.

Both sides may spend less than the budget and each stands at its own best size and epochs, so
nothing that dense gains by stopping earlier is called a saving. The loss to reach is one that both
reach: the worse of the two optima and a tolerance. Everything is read from one grid over what the
box allows within the budget, for all draws at once. Its steps are up to a fifth in cost, so a cost
is read where the loss crosses the target between two neighbours. Left out: settings (`gain`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.answer.costs import Cost
from analysis.answer.optimum import Box, Predictor
from analysis.data.points import Array, Points

TOLERANCE = 0.003  # nats per token: losses nearer than this are called equal
SIDES = (31, 25)  # token counts and sizes of the grid, at each density
LEVELS = 6  # sparse densities of the grid


@dataclass(frozen=True)
class Affordable:
    """Points of a box within a budget, (m,), with their costs and (b, m) losses of b draws. pairs:
    (k, 2) rows of neighbours at one density, the loss between which may be interpolated.
    """

    points: Points
    cost: Array
    loss: Array
    pairs: Array = field(default_factory=lambda: np.empty((0, 2), dtype=int))

    @property
    def dense(self) -> Array:
        """(m,) which points are dense."""
        return np.asarray(self.points.density == 1.0)

    def saving(self) -> Array:
        """(b,) least cost at which a dense run reaches the common loss over that of a sparse one;
        NaN where the box has only one of them. Below 1 sparsity costs more.
        """
        dense = self.dense
        if dense.all() or not dense.any():
            return np.full(len(self.loss), np.nan)
        best = [self.loss[:, side].min(axis=1) for side in (dense, ~dense)]
        target = np.maximum(*best)[:, None] + TOLERANCE
        return np.asarray(np.exp(self._log_cost(dense, target) - self._log_cost(~dense, target)))

    def _log_cost(self, side: Array, target: Array) -> Array:
        """(b,) ln of the least cost on one side at which the loss is at most the (b, 1) target."""
        spent = np.log(self.cost)
        at = np.where(self.loss[:, side] <= target, spent[side], np.inf).min(axis=1)
        first, second = self.pairs[side[self.pairs[:, 0]]].T
        below, above = target - self.loss[:, first], self.loss[:, second] - target
        crossed = (below >= 0) != (above <= 0)
        share = below / np.where(crossed, below + above, 1.0)  # of the way from the first to the second
        between = np.where(crossed, spent[first] + share * (spent[second] - spent[first]), np.inf)
        return np.asarray(np.minimum(at, between.min(axis=1, initial=np.inf)))

    def cheapest(self, loss: float) -> int:
        """The cheapest point whose estimated loss is at most `loss` and the tolerance; -1 if none
        is.
        """
        cost = np.where(self.loss[0] <= loss + TOLERANCE, self.cost, np.inf)
        return int(np.argmin(cost)) if np.isfinite(cost).any() else -1


def affordable(
    predictor: Predictor, theta: Array, box: Box, sparse: float, budget: float, unique: float | None, cost: Cost
) -> Affordable:
    """The grid. theta: (b, p), the estimate first. sparse: the largest density called sparse.

    At each density the tokens go as far as the budget allows the smallest model, and at each token
    count the sizes as far as it allows them: the dearest runs lie on the budget itself.
    """
    low, high = box.density
    densities = [np.geomspace(low, min(sparse, high), LEVELS)] if low < 1 else []
    density = np.unique(np.concatenate([*densities, [1.0] if high == 1 else []]))
    least, most = np.log(box.tokens)
    if unique is not None:
        least, most = max(least, np.log(unique * box.epochs[0])), min(most, np.log(unique * box.epochs[1]))
    smallest, largest = np.log(box.active)
    spend = np.log(budget)
    reach = np.minimum(most, cost.log_tokens(spend, smallest, np.log(density)))
    density, reach = density[reach >= least - 1e-9], reach[reach >= least - 1e-9]
    d = np.log(density)[:, None, None]
    trained = least + np.linspace(0, 1, SIDES[0])[:, None] * np.maximum(reach - least, 0.0)[:, None, None]
    top = np.minimum(largest, cost.log_active(spend, trained, d))
    size = smallest + np.linspace(0, 1, SIDES[1]) * np.maximum(top - smallest, 0.0)
    d, trained = (np.broadcast_to(density[:, None, None], size.shape), np.broadcast_to(trained, size.shape))
    tokens = np.exp(trained).ravel()
    points = Points.at(np.exp(size).ravel(), d.ravel(), tokens if unique is None else unique, tokens)
    row = np.arange(size.size).reshape(size.shape)
    sides = ((row[:, 1:], row[:, :-1]), (row[:, :, 1:], row[:, :, :-1]))
    pairs = np.concatenate([np.stack([one.ravel(), other.ravel()], axis=1) for one, other in sides])
    return Affordable(points, cost.of(points), np.exp(predictor.log_loss(theta, points)), pairs)
