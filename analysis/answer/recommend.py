"""The answer to one question (a budget, a U), with its intervals and its caveats.

`optimum.search` finds optima; this file asks it what a person wants to know: the best run with its
uncertainty, the dense optimum of the same box beside it, what other densities would cost, and how
much less compute would match dense. Everything is computed for every bootstrap draw, so that every
number has its interval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.optimum import Box, flags, search
from analysis.data.points import Array
from analysis.fit.intervals import Draws
from analysis.fit.joint import Fit
from analysis.laws import Law

MATCH_DRAWS = 60  # draws that the interval of the saving uses
MOST = 8  # densities that are listed one by one


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike, draws: Draws, limits: tuple[float, float] = (0.0, np.inf)) -> Interval:
        """From positive values, the first at the fit and the others at its draws; kept within
        `limits`.
        """
        array = np.asarray(values, dtype=float)
        if not np.isfinite(array[0]) or not np.isfinite(array[1:]).any():
            return cls(float(array[0]), float("nan"), float("nan"))
        low, high = np.exp(draws.interval(np.log(array[1:]), np.log(array[0])))
        return cls(float(array[0]), float(max(low, limits[0])), float(min(high, limits[1])))


@dataclass(frozen=True)
class Recommendation:
    """The optimum at one budget and U, the dense optimum beside it, and why to be careful.

    saving: the budget divided by the least compute whose optimum reaches the dense optimum's loss.
    by_density: the least loss at each density that was trained.
    """

    budget: float
    unique: float | None
    active: Interval
    density: Interval
    epochs: Interval
    loss: Interval
    dense_loss: Interval
    saving: Interval
    by_density: tuple[tuple[float, float], ...]
    flags: tuple[str, ...]


def recommend(
    fitted: Fit, draws: Draws, budget: float, unique: float | None, box: Box, cost: Cost = ACTIVE
) -> Recommendation:
    """The optimum with intervals, the dense optimum, the best loss at other densities, and
    flags.
    """
    law, theta = fitted.law, np.concatenate([fitted.theta[None], draws.theta])
    best = search(law, theta, box, budget, unique, cost)
    dense = (
        search(law, theta, box.dense(), budget, unique, cost)
        if box.density[1] == 1
        else replace(best, loss=np.full(len(theta), np.nan))
    )  # the box excludes dense models: there is no baseline to match
    levels = few(fitted.runs.points.density)
    levels = levels[(levels >= box.density[0]) & (levels <= box.density[1])]
    by_density = tuple((float(d), float(_at_density(law, fitted.theta, box, d, budget, unique, cost))) for d in levels)
    found = flags(best, box, fitted.runs, cost, budget)
    found += tuple(
        f"the dense baseline's {flag}, so the saving is not to be trusted"
        for flag in flags(dense, box.dense(), fitted.runs, cost)
        if "edge" in flag
    )
    some = slice(0, MATCH_DRAWS + 1)
    saving = compute_to_match(law, theta[some], dense.loss[some], box, budget, unique, cost)
    return Recommendation(
        budget,
        unique,
        Interval.of(best.active, draws, box.active),
        Interval.of(best.density, draws, box.density),
        Interval.of(best.epochs, draws, box.epochs),
        Interval.of(best.loss, draws),
        Interval.of(dense.loss, draws),
        Interval.of(saving, draws, (1.0, np.inf)),
        by_density,
        found,
    )


def _at_density(
    law: Law, theta: Array, box: Box, density: float, budget: float, unique: float | None, cost: Cost
) -> float:
    fixed = Box(box.active, (density, density), box.epochs, box.tokens)
    return float(search(law, theta, fixed, budget, unique, cost).loss[0])


def compute_to_match(
    law: Law,
    theta: Array,
    loss: Array,
    box: Box,
    budget: float,
    unique: float | None,
    cost: Cost = ACTIVE,
    reach: float = 1e4,
) -> Array:
    """(b,) budget / C', where C' is the least compute whose optimum reaches `loss` (b,); at most
    `reach`.

    By bisection in ln C'; 1 where nothing cheaper does, NaN where the loss is unknown.
    """
    low, high = np.zeros(len(theta)), np.full(len(theta), np.log(reach))
    for _ in range(16):
        middle = 0.5 * (low + high)
        found = search(law, theta, box, budget / np.exp(middle), unique, cost).loss
        enough = np.where(np.isfinite(found), found, np.inf) <= loss * (1 + 1e-9)
        low, high = np.where(enough, middle, low), np.where(enough, high, middle)
    return np.where(np.isfinite(loss), np.exp(low), np.nan)


def few(values: Array, most: int = MOST) -> Array:
    """The distinct values, ascending; quantiles among them if there are more than `most`."""
    distinct = np.unique(values)
    if len(distinct) <= most:
        return distinct
    return np.unique(np.quantile(values, np.linspace(0, 1, most), method="nearest"))
