"""Where an answer may lie: every run inside a box, for one U, that costs at most the budget.

The budget is a cap. It is met by construction: a place in the unit cube is a density, a size among
those that the box and the budget leave at that density, epochs among those that size leaves, and
the settings; so a search needs no penalty and no rejection. Where no law guides the model, sizes
are limited to those that were trained at some density, counted as if dense: a large sparse model of
a dense one's active size is outside of the data although both its numbers are inside their ranges,
and only a law says what it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.answer.costs import Cost
from analysis.answer.optimum import Box
from analysis.data.axes import Frame
from analysis.data.points import Array, Points
from analysis.data.table import Runs


class NoRunError(ValueError):
    """No run of a box costs as little as the budget."""


@dataclass(frozen=True)
class Space:
    """box: ranges of N, density and epochs, which train no more or less than its tokens. whole:
    range of N / density. log_budget: ln of the cap. unique: U. settings: (m,) lowest and highest
    columns.
    """

    box: Box
    whole: tuple[float, float]
    cost: Cost
    log_budget: float
    unique: float
    frame: Frame

    @classmethod
    def of(
        cls, runs: Runs, box: Box, cost: Cost, budget: float, unique: float, frame: Frame, guided: bool = False
    ) -> Space:
        """guided: laws carry the model, so that any size of the box may stand at any density.

        Raises NoRunError if no run inside the box is of a size that was trained, or none is within
        the budget, saying what the cheapest costs, and ValueError if its epochs over U train no
        such tokens.
        """
        box = within(box, unique)
        whole = np.array([1e-300, np.inf]) if guided else runs.points.active / runs.points.density
        space = cls(box, (float(whole.min()), float(whole.max())), cost, float(np.log(budget)), unique, frame)
        cheapest = space.cheapest()
        if np.isinf(cheapest):
            raise NoRunError(
                f"no run inside the box is of a size that was trained: {box.active[0]:.3g} to "
                f"{box.active[1]:.3g} active weights at density {box.density[0]:.3g} to {box.density[1]:.3g}, where "
                f"active weights / density were {space.whole[0]:.3g} to {space.whole[1]:.3g}; widen the box"
            )
        if not cheapest <= budget:
            raise NoRunError(
                f"the budget {budget:.3g} {cost.unit} fits no run inside the box; the cheapest there costs "
                f"{cheapest:.3g} {cost.unit}: raise the budget or widen the box"
            )
        return space

    @property
    def dimensions(self) -> int:
        return 3 + len(self.frame.axes)

    def cheapest(self) -> float:
        """Least cost of a run inside the box."""
        density = np.geomspace(*self.box.density, 33)
        low, high = self._sizes(np.log(density))
        tokens = np.full(33, np.log(self.unique * self.box.epochs[0]))
        spent = self.cost.of(Points.at(np.exp(low), density, self.unique, np.exp(tokens)))
        return float(np.where(low <= high, spent, np.inf).min())

    def _sizes(self, log_density: Array) -> tuple[Array, Array]:
        """ln of the least and greatest N of the box at each density, the budget aside."""
        low = np.maximum(np.log(self.box.active[0]), np.log(self.whole[0]) + log_density)
        high = np.minimum(np.log(self.box.active[1]), np.log(self.whole[1]) + log_density)
        return low, high

    def at(self, cube: Array) -> tuple[Points, Array, Array]:
        """Places (k, 3 + m) of the unit cube as points (k,), columns of the settings (k, m), and
        whether any run at that density fits the budget (k,).
        """
        log_density = np.log(self.box.density[0]) + cube[:, 0] * np.log(self.box.density[1] / self.box.density[0])
        least_tokens = np.log(self.unique * self.box.epochs[0])
        low, high = self._sizes(log_density)
        afford = self.cost.log_active(self.log_budget, np.full_like(low, least_tokens), log_density)
        high = np.minimum(high, afford)
        fits = high >= low - 1e-9
        log_active = low + cube[:, 1] * np.maximum(high - low, 0.0)
        most = np.minimum(
            np.log(self.unique * self.box.epochs[1]), self.cost.log_tokens(self.log_budget, log_active, log_density)
        )
        log_tokens = least_tokens + cube[:, 2] * np.maximum(most - least_tokens, 0.0)
        points = Points.at(np.exp(log_active), np.minimum(np.exp(log_density), 1.0), self.unique, np.exp(log_tokens))
        floor, ceiling = self.frame.limits()
        return points, floor + cube[:, 3:] * (ceiling - floor), fits

    def columns(self, cube: Array) -> tuple[Array, Array]:
        """(k, p) the model's columns at places of the cube, and (k,) whether they are possible."""
        points, settings, fits = self.at(cube)
        settings = np.where([axis.switch for axis in self.frame.axes], np.sign(settings), settings)
        return np.hstack([self.frame.coordinates(points), settings]), fits


def within(box: Box, unique: float) -> Box:
    """The box with only those epochs over U that train the tokens of the box.

    Raises ValueError if there are none.
    """
    low, high = (tokens / unique for tokens in box.tokens)
    epochs = (max(box.epochs[0], low), min(box.epochs[1], high))
    if not epochs[0] <= epochs[1]:
        raise ValueError(
            f"{box.tokens[0]:.3g} to {box.tokens[1]:.3g} tokens are {low:.3g} to {high:.3g} epochs over {unique:.3g} "
            f"unique tokens, and the box has {box.epochs[0]:.3g} to {box.epochs[1]:.3g}; widen tokens or epochs"
        )
    return replace(box, epochs=epochs)
