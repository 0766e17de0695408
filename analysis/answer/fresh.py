"""The best size and token count of a dense table whose tokens are all fresh: N_opt(C), D_opt(C).

Three roads to the exponent a of N_opt ~ C^a (Hoffmann et al. 2022, arXiv 2203.15556), side by side.
Approach 1 there is the envelope of loss curves; a table of final rows has no curves, so the run of
least loss in each bin of compute stands for it, and needs runs of many sizes in a bin. Approach 2:
a parabola in ln N through the runs of (nearly) equal compute. It is biased where the true curve is
lopsided; the same parabolas through the law's own losses at the same runs say by how much. Approach
3: the fitted law, whose optimum has a closed form; a law with alpha = beta says .5 whatever the
rows say, so an untied one is taken. Limits: dense rows only; roads 1 and 2 are resampled within a
level of compute and know nothing of errors that all levels share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer.costs import Cost
from analysis.answer.recommend import Interval
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.intervals import Draws, bootstrap, percentiles
from analysis.fit.joint import Fit
from analysis.fit.select import Candidate

GAP = 0.1  # ln units of compute: runs nearer than this are of one level ...
WIDEST = 0.5  # ... unless the level then spans more than this
BIN = 0.7  # width of a bin of compute in ln units, a factor of 2
LEVELS = 3  # levels or bins that a line needs
SIZES = 4  # sizes that a parabola, or a bin, needs
ALONG = 25  # budgets along N_opt(C)
BEYOND = 10.0  # the curve ends at this multiple of the dearest run's cost


@dataclass(frozen=True)
class Road:
    """One approach. a: N_opt ~ C^a with its 95 % interval, None where the table does not allow it,
    and `note` says why; else `note` says how far to trust it. cost, active: (k,) the optima that
    its line goes through.
    """

    name: str
    a: Interval | None
    note: str
    cost: Array
    active: Array


@dataclass(frozen=True)
class Fresh:
    """law: the untied law of roads[-1]. budgets: (m,). active, tokens: (b + 1, m) N_opt and D_opt
    of the fit and of its draws, at density 1.
    """

    law: str
    draws: Draws
    roads: tuple[Road, ...]
    budgets: Array
    active: Array
    tokens: Array

    @property
    def exponent(self) -> Interval:
        """a by the law."""
        found = self.roads[-1].a
        assert found is not None
        return found


def fresh(runs: Runs, tried: Sequence[Candidate], cost: Cost, draws: int = 100, seed: int = 0) -> Fresh | None:
    """None if no untied law without repetition was fitted to the table."""
    able = [c for c in tried if c.fit is not None and not c.law.tied and not c.law.repeats]
    if not able:
        return None
    found = min(able, key=lambda candidate: candidate.rmse).fit
    assert found is not None
    sample = bootstrap(found, draws, seed)
    theta = np.concatenate([found.theta[None], sample.theta])
    dense = runs.take(runs.points.density == 1.0)
    spent = cost.of(runs.points)
    budgets = np.geomspace(spent.min(), spent.max() * BEYOND, ALONG)
    log_active = log_optimum(found, theta, np.log(budgets), cost)
    log_tokens = cost.log_tokens(np.log(budgets), log_active, np.zeros(ALONG))
    slope = np.ptp(log_active[:, [0, -1]], axis=1) / np.log(budgets[-1] / budgets[0])
    exact = Interval.of(slope, sample, (0.0, 1.0 / cost.size))
    law_road = Road("3, the law", exact, found.law.name, budgets, np.exp(log_active[0]))
    roads = (_least(dense, cost, draws, seed), _parabolas(dense, found, cost, draws, seed), law_road)
    return Fresh(found.law.name, sample, roads, budgets, np.exp(log_active), np.exp(log_tokens))


def log_optimum(fit: Fit, theta: Array, log_cost: Array, cost: Cost) -> Array:
    """(b, m) ln N_opt of a dense model at (m,) ln costs, in closed form.

    The sum A / N^alpha + B / D^beta is least under c + s ln N + t ln D = ln C where
    alpha A / N^alpha / s = beta B / D^beta / t; what a law makes of the sum (a power, a bound) does
    not move it.
    """
    names = fit.law.names
    alpha, beta, log_a, log_b = (theta[:, [names.index(name)]] for name in ("alpha", "beta", "ln_A", "ln_B"))
    s, t = cost.size, cost.tokens
    ratio = np.log(alpha * t / (beta * s)) + log_a - log_b
    return np.asarray((ratio + beta / t * (log_cost - cost.constant)) / (alpha + beta * s / t))


def _least(runs: Runs, cost: Cost, draws: int, seed: int) -> Road:
    """Approach 1 on final rows: the best run of each bin of compute."""
    spent = np.log(cost.of(runs.points)) if len(runs) else np.zeros(0)
    bins = [rows for rows in _bins(spent) if len(np.unique(runs.points.active[rows])) >= SIZES]

    def best(rows: Array) -> tuple[float, float]:
        row = rows[np.argmin(runs.loss[rows])]
        return float(spent[row]), float(runs.points.log_active[row])

    note = "the best run of each factor 2 of compute; the sizes that were trained are its resolution"
    return _line("1, best run per bin", bins, best, note, draws, seed)


def _parabolas(runs: Runs, fit: Fit, cost: Cost, draws: int, seed: int) -> Road:
    """Approach 2, with its bias by the law."""
    spent = np.log(cost.of(runs.points)) if len(runs) else np.zeros(0)
    levels = [rows for rows in _levels(spent) if len(np.unique(runs.points.active[rows])) >= SIZES]

    def bottom(loss: Array) -> Callable[[Array], tuple[float, float] | None]:
        def of(rows: Array) -> tuple[float, float] | None:
            return _bottom(runs.points.log_active[rows], loss[rows], float(spent[rows].mean()))

        return of

    road = _line("2, parabolas", levels, bottom(runs.loss), "", draws, seed)
    if road.a is None:
        return road
    ideal = _line("", levels, bottom(fit.predict(runs.points)), "", 0, seed)
    if ideal.a is None:
        return road
    true = log_optimum(fit, fit.theta[None], np.log(ideal.cost), cost)[0]
    bias = ideal.a.value - float(np.polyfit(np.log(ideal.cost), true, 1)[0])
    note = f"parabolas through the law's own losses at these runs are off by {bias:+.3f}"
    return Road(road.name, road.a, note, road.cost, road.active)


def _line(
    name: str,
    groups: list[Array],
    optimum: Callable[[Array], tuple[float, float] | None],
    note: str,
    draws: int,
    seed: int,
) -> Road:
    """The line through the optima of groups of rows, with its slope's interval by resampling rows
    within each group.
    """
    found = [at for at in map(optimum, groups) if at is not None]
    if len(found) < LEVELS:
        lacks = f"needs {LEVELS} levels of compute with an optimum among {SIZES} sizes, {len(found)} there"
        return Road(name, None, lacks, np.zeros(0), np.zeros(0))
    generator = np.random.default_rng(seed)
    slopes = []
    for _ in range(draws):
        again = [optimum(generator.choice(rows, len(rows))) for rows in groups]
        some = [at for at in again if at is not None]
        if len(some) >= LEVELS:
            slopes.append(_slope(some))
    value = _slope(found)
    low, high = percentiles(np.array(slopes)) if len(slopes) > 1 else (np.nan, np.nan)
    spent, size = np.exp(np.array(found)).T
    return Road(name, Interval(value, float(np.fmin(low, value)), float(np.fmax(high, value))), note, spent, size)


def _slope(found: Sequence[tuple[float, float]]) -> float:
    spent, size = np.array(found).T
    return float(np.polyfit(spent, size, 1)[0])


def _bottom(log_active: Array, loss: Array, spent: float) -> tuple[float, float] | None:
    """Where a parabola through the rows has its least value, inside their sizes; else None."""
    if len(np.unique(log_active)) < LEVELS:
        return None
    middle = log_active.mean()
    square, linear, _ = np.polyfit(log_active - middle, loss, 2)
    if not square > 0:
        return None
    at = middle - linear / (2 * square)
    return (spent, float(at)) if log_active.min() <= at <= log_active.max() else None


def _levels(spent: Array) -> list[Array]:
    """Rows of nearly equal compute (ln), cheapest first."""
    order = np.argsort(spent, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(spent[order]) > GAP) + 1)
    return [rows for rows in groups if len(rows) and np.ptp(spent[rows]) <= WIDEST]


def _bins(spent: Array) -> list[Array]:
    """Rows of each `BIN` of compute (ln), cheapest first."""
    if not len(spent):
        return []
    place = ((spent - spent.min()) / BIN).astype(int)
    return [np.flatnonzero(place == number) for number in np.unique(place)]
