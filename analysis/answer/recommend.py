"""The answer to one question (a budget, a U), with its intervals and its caveats.

`optimum.search` finds optima; this file asks it what a person wants to know: the best run within
the budget with its uncertainty, the best measured rows and an equal for less beside it, the dense
optimum of the same box, what other densities would cost, and what sparsity saves (`savings`).
Everything is computed for every draw of one law or of an ensemble, so that every number has its
interval; losses, dense too, are those of the chosen run in every draw, not each draw's own best.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.ensemble import Ensemble
from analysis.answer.optimum import EDGE, Box, Optimum, Predictor, flags, search
from analysis.answer.savings import Affordable, affordable
from analysis.answer.warnings import of_difference, of_distance
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.intervals import Draws
from analysis.fit.joint import Fit

ROWS = 3  # measured rows that are listed beside the answer
MOST = 8  # densities that are listed one by one
# Share of an ensemble's draws that a 95 % interval spans. Draws bend at random between rows and
# each takes its own best bend, so their optima scatter more than the true one is unsure; and where
# the answer is an edge of what was trained, so is nearly every best density. Chosen so that 96 % of
# the answers to tables of tuning seeds are held (docs/experiments.md); sizes and losses span .95.
EPOCHS, SAVING = 0.88, 0.9
ON_EDGE, INSIDE = 0.3, 0.87  # densities


class Drawn(Protocol):
    """What turns values of all draws into limits: `Draws`, or an `Ensemble`."""

    def interval(self, values: Array, estimate: ArrayLike, level: float = 0.95) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls, values: ArrayLike, draws: Drawn, limits: tuple[float, float] = (0.0, np.inf), spanned: float = 0.95
    ) -> Interval:
        """From positive values, the first at the fit and the others at its draws; kept within
        `limits`. spanned: share of the draws that it spans.
        """
        array = np.asarray(values, dtype=float)
        if not np.isfinite(array[0]) or not np.isfinite(array[1:]).any():
            return cls(float(array[0]), float("nan"), float("nan"))
        low, high = np.exp(draws.interval(np.log(array[1:]), np.log(array[0]), spanned))
        return cls(float(array[0]), float(max(low, limits[0])), float(min(high, limits[1])))


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class MeasuredRow:
    """A run of the table within the budget: id, N, density, epochs, trained tokens, loss (nats per
    token), cost.
    """

    row: str
    active: float
    density: float
    epochs: float
    tokens: float
    loss: float
    cost: float


@dataclass(frozen=True)
class Equal:
    """The cheapest run predicted within the tolerance of the answer."""

    active: float
    density: float
    epochs: float
    loss: float
    cost: float


@dataclass(frozen=True)
class Recommendation:
    """The best run that costs at most the budget at one U, and why to be careful.

    loss: expected, of this run. tokens: that it is trained on. cost: what it costs. saving: see
    `savings`; `shown` says whether its interval leaves out 1. by_density: the least loss at each
    density that was trained. rows: the best measured runs within the budget, best first. cheaper:
    an equal for less. law_loss: what the one law that the report explains says of the answer;
    differs from `loss` for an ensemble.
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
    tokens: float
    cost: float
    rows: tuple[MeasuredRow, ...]
    cheaper: Equal | None
    law_loss: float

    @property
    def shown(self) -> bool:
        """Whether the table shows that sparsity saves compute, or costs some."""
        return bool(self.saving.low > 1 or self.saving.high < 1)

    @property
    def beaten(self) -> bool:
        """Whether a measured run within the budget is better than what is predicted here."""
        return bool(self.rows) and self.rows[0].loss < self.loss.value


def recommend(
    fitted: Fit,
    draws: Draws,
    budget: float,
    unique: float | None,
    box: Box,
    cost: Cost = ACTIVE,
    laws: Ensemble | None = None,
    measured: Runs | None = None,
) -> Recommendation:
    """The answer by one law, or by an ensemble if given; `fitted` is the law that is explained.
    measured: the runs that are listed, where the law was fitted to points that nobody measured.
    """
    predictor: Predictor = laws or fitted.law
    theta = laws.numbers if laws else np.concatenate([fitted.theta[None], draws.theta])
    drawn: Drawn = laws or draws
    runs = fitted.runs
    best = search(predictor, theta, box, budget, unique, cost)
    found = flags(best, box, runs, cost, budget, fresh=unique is None)
    if not np.isfinite(best.loss[0]):
        return _none(budget, unique, found)
    here = best.point()
    grid = affordable(predictor, theta, box, _sparse(runs), budget, unique, cost)
    levels = few(runs.points.density)
    levels = levels[(levels >= box.density[0]) & (levels <= box.density[1])]
    by_density = tuple((float(d), _at_density(predictor, theta[:1], box, d, budget, unique, cost)) for d in levels)
    rows = _rows(runs if measured is None else measured, budget, unique, cost)
    spans = _spans(runs, float(best.density[0])) if laws else {}
    item = Recommendation(
        budget=budget,
        unique=unique,
        active=Interval.of(best.active, drawn, box.active),
        density=Interval.of(best.density, drawn, box.density, spans.get("density", 0.95)),
        epochs=Interval.of(best.epochs, drawn, box.epochs, spans.get("epochs", 0.95)),
        loss=_loss_of(predictor, theta, best, drawn),
        dense_loss=_dense_loss(predictor, theta, box, budget, unique, cost, drawn),
        saving=Interval.of(grid.saving(), drawn, spanned=spans.get("saving", 0.95)),
        by_density=by_density,
        flags=found,
        tokens=float(here.tokens[0]),
        cost=float(cost.of(here)[0]),
        rows=rows,
        cheaper=_cheaper(grid, float(best.loss[0])),
        law_loss=float(fitted.predict(here)[0]),
    )
    return replace(item, flags=(*found, *_warnings(item, runs, here, fitted if laws else None)))


def _spans(runs: Runs, density: float) -> dict[str, float]:
    """Share of an ensemble's draws that each interval spans, where not .95."""
    return {"density": density_spans(density, runs, INSIDE), "epochs": EPOCHS, "saving": SAVING}


def density_spans(density: float, runs: Runs, inside: float) -> float:
    """Share of the draws that the interval of an advised density spans; `inside`: off the edges."""
    return ON_EDGE if on_edge(density, runs) else inside


def on_edge(density: float, runs: Runs) -> bool:
    """Whether a density is the least or the largest that was trained."""
    trained = runs.points.density
    return bool(np.isclose(np.log(density), np.log([trained.min(), trained.max()]), rtol=0, atol=EDGE).any())


def _warnings(item: Recommendation, runs: Runs, here: Points, alone: Fit | None) -> tuple[str, ...]:
    """What to know of the answer beside its edges. alone: the law that is explained, where others
    answer with it.
    """
    said = of_distance(runs, here)
    if alone is not None:
        said += of_difference(item.loss.value, item.law_loss, alone.law.name)
    if item.beaten:
        row = item.rows[0]
        said += (f"{row.row} measured {row.loss:.4f}, below the {item.loss.value:.4f} predicted for this run",)
    return said


def _loss_of(predictor: Predictor, theta: Array, optimum: Optimum, drawn: Drawn) -> Interval:
    """The loss of the optimum's first run in every draw; unknown where the budget fits none."""
    if not np.isfinite(optimum.loss[0]):
        return UNKNOWN
    return Interval.of(np.exp(predictor.log_loss(theta, optimum.point())[:, 0]), drawn)


def _dense_loss(
    predictor: Predictor, theta: Array, box: Box, budget: float, unique: float | None, cost: Cost, drawn: Drawn
) -> Interval:
    if box.density[1] < 1:  # the box excludes dense models: there is no baseline to match
        return UNKNOWN
    return _loss_of(predictor, theta, search(predictor, theta[:1], box.dense(), budget, unique, cost), drawn)


def _none(budget: float, unique: float | None, found: tuple[str, ...]) -> Recommendation:
    """No run of the box fits the budget, so no dense run does."""
    intervals = ("active", "density", "epochs", "loss", "dense_loss", "saving")
    return Recommendation(
        budget=budget,
        unique=unique,
        by_density=(),
        flags=found,
        tokens=np.nan,
        cost=np.nan,
        rows=(),
        cheaper=None,
        law_loss=np.nan,
        **dict.fromkeys(intervals, UNKNOWN),
    )


def _sparse(runs: Runs) -> float:
    """The largest density below 1 that was trained; 1 where none was."""
    below = runs.points.density[runs.points.density < 1]
    return float(below.max()) if len(below) else 1.0


def _rows(runs: Runs, budget: float, unique: float | None, cost: Cost) -> tuple[MeasuredRow, ...]:
    points, spent = runs.points, cost.of(runs.points)
    inside = spent <= budget * (1 + 1e-6)
    if unique is not None:
        inside &= np.abs(points.log_unique - np.log(unique)) < 1e-6
    order = [int(row) for row in np.argsort(runs.loss, kind="stable") if inside[row]][:ROWS]
    return tuple(
        MeasuredRow(
            str(runs.ids[row]),
            float(points.active[row]),
            float(points.density[row]),
            float(points.epochs[row]),
            float(points.tokens[row]),
            float(runs.loss[row]),
            float(spent[row]),
        )
        for row in order
    )


def _cheaper(grid: Affordable, loss: float) -> Equal | None:
    row = grid.cheapest(loss)
    if row < 0:
        return None
    points = grid.points
    return Equal(
        float(points.active[row]),
        float(points.density[row]),
        float(points.epochs[row]),
        float(grid.loss[0, row]),
        float(grid.cost[row]),
    )


def _at_density(
    predictor: Predictor, theta: Array, box: Box, density: float, budget: float, unique: float | None, cost: Cost
) -> float:
    fixed = replace(box, density=(density, density))
    return float(search(predictor, theta, fixed, budget, unique, cost).loss[0])


def few(values: Array, most: int = MOST) -> Array:
    """The distinct values, ascending; quantiles among them if there are more than `most`."""
    distinct = np.unique(values)
    if len(distinct) <= most:
        return distinct
    return np.unique(np.quantile(values, np.linspace(0, 1, most), method="nearest"))
