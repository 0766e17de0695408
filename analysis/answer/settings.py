"""The answer with settings: which run to train under a budget, every number with its interval.

One model of the loss (`surrogate`, by laws where rows suffice: `guided`) is asked for its optimum
inside the box of the data, the budget being a cap; the dense optimum and the sparse one are found
apart, each at its own size, epochs and settings, and compared. Intervals come from whole functions
drawn from the model (`paths`): each draw's own optimum for size, density, epochs and settings; for
the loss, the draws *at the chosen run* with a run's noise, because the least value of a draw is not
what the chosen run measures. Left out: places beyond the box (`recommend`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from analysis.answer.choice import BestRun, Choice, Measured
from analysis.answer.costs import ACTIVE, Cost, measured_cost
from analysis.answer.guided import guided
from analysis.answer.optimum import Box
from analysis.answer.paths import Paths, draw
from analysis.answer.recommend import Interval, density_spans
from analysis.answer.space import Space
from analysis.answer.surrogate import Surrogate
from analysis.answer.warnings import of_aside
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.gaussian import spread

CANDIDATES = 1024  # places of the space that are looked at before the search narrows
BASINS = 8  # of the mean's best places, how many are followed
AROUND, LEVELS = 24, 7  # places tried around each, and how often the window halves
ROWS = 5  # measured runs that are listed beside the answer
# Of the draws of a loss where laws guide: they take what settings cost as known. Two runs share
# that, so a difference is not stretched.
STRETCH = 1.1
# Share of the draws that a 95 % interval spans where laws guide, chosen as in `recommend`: of
# densities inside what was trained, and of dense minus sparse.
INSIDE, DIFFERENCE = 0.8, 0.8
# Sds, where no laws guide: a mean dips between rows, so of like places the better known is taken.
CAUTION = 1.0
EDGE = 0.02  # of a setting's range: nearer than this to its end counts as on it


def answer(
    runs: Runs,
    *,
    budget: float,
    unique: float,
    cost: Cost | None = None,
    box: Box | None = None,
    draws: int = 200,
    seed: int = 0,
    model: Surrogate | None = None,
) -> BestRun:
    """The best run for `unique` tokens at a cost of at most `budget`.

    cost: default, the table's own active FLOPs where it has them, else 6 N D. box: default, the
    data's own range. model: of these runs, where it was made before.
    Raises ValueError for fewer than five rows, NoRunError for a budget below the cheapest run of
    the box.
    """
    model = model or guided(runs, seed=seed)
    cost = cost or own_cost(runs)
    searches = _searches(model, box or data_box(runs), cost, budget, unique, draws, seed)
    found = {kind: search.choice(search.optima) for kind, search in searches.items()}
    best = min(found, key=lambda kind: found[kind].expected.value)
    rows = _rows(runs, model, cost, budget, unique)
    return BestRun(
        budget,
        unique,
        cost.unit,
        searches[best].choice(_best_of([search.optima for search in searches.values()])),
        found.get("dense"),
        found.get("sparse"),
        _difference(searches) if len(searches) == 2 else None,
        rows,
        _warnings(model, found[best], searches[best].space, rows),
    )


def _searches(
    model: Surrogate, box: Box, cost: Cost, budget: float, unique: float, draws: int, seed: int
) -> dict[str, _Search]:
    """The search of each kind of run that the budget allows; refused if it allows none."""
    paths = draw(model.processes, draws, seed)
    searches, refusals = {}, []
    for kind, density in _kinds(model.runs, box).items():
        try:
            space = Space.of(model.runs, replace(box, density=density), cost, budget, unique, model.frame, model.guided)
        except ValueError as error:
            refusals.append(error)
        else:
            searches[kind] = _Search(model, paths, space, seed)
    if not searches:
        raise refusals[-1]
    return searches


def data_box(runs: Runs) -> Box:
    """The range of the data in size, density and epochs, from which tokens follow."""
    p = runs.points
    return Box(*((float(values.min()), float(values.max())) for values in (p.active, p.density, p.epochs)))


def own_cost(runs: Runs) -> Cost:
    """The table's own active FLOPs (attention included) where it has them, else 6 N D."""
    known = runs.extras.get("flops_active", np.zeros(0))
    return measured_cost(runs, "flops_active") if (np.isfinite(known) & (known > 0)).sum() >= 3 else ACTIVE


def _kinds(runs: Runs, box: Box) -> dict[str, tuple[float, float]]:
    """Density ranges that are searched apart: dense, and sparse up to the densest sparse run."""
    kinds = {}
    if box.density[1] == 1:
        kinds["dense"] = (1.0, 1.0)
    below = runs.points.density[runs.points.density < 1]
    if len(below) and box.density[0] < 1:
        kinds["sparse"] = (box.density[0], max(box.density[0], min(box.density[1], float(below.max()))))
    return kinds


class _Search:
    """The optimum of the mean and of every draw in one space."""

    def __init__(self, model: Surrogate, paths: Paths, space: Space, seed: int):
        self.model, self.paths, self.space, self.seed = model, paths, space, seed
        cube = np.clip(0.5 + 1.04 * (spread(space.dimensions, CANDIDATES, seed) - 0.5), 0, 1)
        columns, fits = space.columns(cube)
        self.cube, self.columns = cube[fits], columns[fits]
        self.place = self._best_place()
        self.places = self._best_draws()

    def _judged(self, columns: Array) -> Array:
        """(k,) what the best place has least of: the loss at the mean of the warped one, or, where
        no laws guide, the expected loss and `CAUTION`.
        """
        if not self.model.guided:
            expected, sd = self.model.moments(columns)
            return expected + CAUTION * sd
        mean = np.mean([process.mean(columns) for process in self.model.processes], axis=0)
        return self.model.warp.outward(mean, self.model.base(columns))

    def _each(self, columns: Array) -> Array:
        """(b, t) the expected loss of every draw at its own (b, t, p) places."""
        return self.model.warp.outward(self.paths.each(columns), self.model.base(columns))

    def _best_place(self) -> Array:
        """(1, 3 + m) the best place."""
        order = np.argsort(self._judged(self.columns), kind="stable")[:BASINS]
        at = self._zoom(self.cube[order], lambda columns: self._judged(np.concatenate(columns)))
        return at[[int(np.argmin(self._judged(self.space.columns(at)[0])))]]

    def _best_draws(self) -> Array:
        """(b, 3 + m) the place of each draw's least value."""
        everywhere = self.model.warp.outward(self.paths.at(self.columns), self.model.base(self.columns))
        return self._zoom(self.cube[everywhere.argmin(axis=1)], self._each)

    def _zoom(self, at: Array, values: Callable[[Array], Array]) -> Array:
        """Narrow around (k, 3 + m) places: the best of those tried near each, ever nearer."""
        width = 0.15
        for level in range(LEVELS):
            cloud = width * (2 * spread(at.shape[1], AROUND, self.seed + 1 + level) - 1)
            tried = np.concatenate([at[:, None], np.clip(at[:, None] + cloud, 0, 1)], axis=1)
            columns, fits = self.space.columns(tried.reshape(-1, at.shape[1]))
            found = values(columns.reshape(*tried.shape[:2], columns.shape[1])).reshape(tried.shape[:2])
            found = np.where(fits.reshape(found.shape), found, np.inf)
            at = tried[np.arange(len(at)), found.argmin(axis=1)]
            width *= 0.55
        return at

    @property
    def column(self) -> Array:
        """(1, p) the chosen run's columns."""
        return self.space.columns(self.place)[0]

    @cached_property
    def optima(self) -> dict[str, Array]:
        """Where each draw has its least value, and that value: (b,) arrays by name."""
        points, settings, _ = self.space.at(self.places)
        value = self._each(self.space.columns(self.places)[0][:, None])[:, 0]
        where = {"active": points.active, "density": points.density, "epochs": points.epochs, "value": value}
        return where | {f"setting {name}": at for name, at in self.model.frame.named(settings).items()}

    def choice(self, optima: Mapping[str, Array]) -> Choice:
        """The chosen run, its intervals from where the draws have their optima."""
        point, settings, _ = self.space.at(self.place)
        mean, expected, run = self.losses()
        return Choice(
            _interval(point.active, optima["active"]),
            _interval(point.density, optima["density"], self._spanned(float(point.density[0]))),
            _interval(point.epochs, optima["epochs"]),
            {
                name: _interval(value, optima[f"setting {name}"])
                for name, value in self.model.frame.named(settings).items()
            },
            _interval(mean, run),
            _interval(mean, expected),
            float(self.space.cost.of(point)[0]),
        )

    def _spanned(self, density: float) -> float:
        """Share of the draws' densities that an interval about the chosen one spans."""
        return density_spans(density, self.model.runs, INSIDE) if self.model.guided else 0.95

    def losses(self) -> tuple[Array, Array, Array]:
        """Expected loss of the chosen run (1,), its draws (b,), and draws of one training (b,)."""
        from scipy.special import ndtri

        mean, expected = self.expected()
        if self.model.guided:
            expected = mean + STRETCH * (expected - mean)
        order = np.random.default_rng(self.seed).permutation(len(expected))
        noise = np.maximum(self.model.noises(self.paths), self.model.least_noise)
        return mean, expected, expected + noise * ndtri((order + 0.5) / len(order))

    def expected(self) -> tuple[Array, Array]:
        """Expected loss of the chosen run (1,), and its draws (b,)."""
        return self.model.moments(self.column)[0], self.model.drawn(self.paths, self.column)[:, 0]


def _best_of(optima: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Of several kinds of run, each draw's better one."""
    winner = np.argmin([each["value"] for each in optima], axis=0)
    return {name: np.choose(winner, [each[name] for each in optima]) for name in optima[0]}


def _interval(value: Array, draws: Array, spanned: float = 0.95) -> Interval:
    """The middle of the draws, a share of them, about the value (1,), which lies inside."""
    centre = float(value[0])
    low, high = np.quantile(draws, [(1 - spanned) / 2, (1 + spanned) / 2])
    return Interval(centre, float(min(low, centre)), float(max(high, centre)))


def _difference(searches: Mapping[str, _Search]) -> Interval:
    """Expected loss of the chosen dense run minus that of the chosen sparse run, draw by draw."""
    dense, sparse = searches["dense"].expected(), searches["sparse"].expected()
    return _interval(dense[0] - sparse[0], dense[1] - sparse[1], difference_spans(searches["dense"].model))


def difference_spans(model: Surrogate) -> float:
    """Share of the draws that the 95 % interval of a difference spans."""
    return DIFFERENCE if model.guided else 0.95


def _rows(runs: Runs, model: Surrogate, cost: Cost, budget: float, unique: float) -> tuple[Measured, ...]:
    """The best measured rows at this U within the budget, best first."""
    spent = cost.of(runs.points)
    fits = np.flatnonzero((spent <= budget * 1.001) & (np.abs(runs.points.log_unique - np.log(unique)) < 0.01))
    chosen = fits[np.argsort(runs.loss[fits], kind="stable")[:ROWS]]
    if not len(chosen):
        return ()
    some = runs.take(chosen)
    expected, _ = model.predict(some.points, some.settings)
    p = some.points
    return tuple(
        Measured(
            str(some.ids[i]),
            float(p.active[i]),
            float(p.density[i]),
            float(p.epochs[i]),
            {name: float(values[i]) for name, values in some.settings.items()},
            float(some.loss[i]),
            float(expected[i]),
            float(spent[chosen[i]]),
        )
        for i in range(len(chosen))
    )


def _warnings(model: Surrogate, best: Choice, space: Space, rows: tuple[Measured, ...]) -> tuple[str, ...]:
    """Why to read the answer with care."""
    found = list(of_aside(model.aside))
    points = model.runs.points
    low, high = float(points.unique.min()), float(points.unique.max())
    if not low * 0.99 <= space.unique <= high * 1.01:
        found.append(f"U = {space.unique:.4g} lies outside the data [{low:.4g}, {high:.4g}]")
    for name in ("active", "epochs"):
        value, (least, most) = getattr(best, name).value, getattr(space.box, name)
        if least < most and not least * 1.01 < value < most * 0.99:
            found.append(f"{name} {value:.4g} lies on an edge of the box [{least:.4g}, {most:.4g}]")
    for axis in model.frame.axes:
        column = float(axis.inward(best.settings[axis.name].value))
        if not axis.switch and not axis.low + EDGE < column < axis.high - EDGE:
            found.append(f"{axis.name} {best.settings[axis.name].value:.4g} lies on an edge of what was tried")
    if rows and min(row.expected for row in rows) < best.expected.value - 1e-4:
        found.append(f"the measured run {min(rows, key=lambda row: row.expected).row} is expected to be better")
    return tuple(found)
