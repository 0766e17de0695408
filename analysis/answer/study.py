"""The whole analysis of one table, from rows to a recommendation, as one value.

`analyse` picks the richest law that the rows support, fits it, draws its uncertainty and searches
the optimum over budgets and unique-token budgets. Report, pictures and the command line only show a
`Study`; nothing is computed there. Where a table cannot carry any law, the study says so and holds
what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from analysis.answer.compare import Comparison, begin
from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.design import Design, TooDearError, TooFewDrawsError, candidates_in, design
from analysis.answer.ensemble import Ensemble, ensemble
from analysis.answer.fresh import Fresh, fresh
from analysis.answer.marks import Mark, marks_of
from analysis.answer.optimum import Box, search
from analysis.answer.recommend import MOST, Recommendation, few, recommend
from analysis.answer.warnings import of_fit, of_laws
from analysis.beside import ALONE, Alone
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.intervals import Draws, bootstrap
from analysis.fit.joint import LARGE, SAMPLE, Fit, fit
from analysis.fit.select import MULTI, Candidate, candidates, cross_validate, levels, nearest_law, pick
from analysis.laws import Law
from raysparse.units import count

CURVE = 17  # budgets along the optimal-sparsity curve
BEYOND = 4.0  # the curve ends at this multiple of the largest run's cost
CURVE_DRAWS = 60  # draws that the bands of the curve use
ENSEMBLE_DRAWS = 100  # draws of every law of the ensemble
HELD_OUT = 5  # laws of least cross-validated error that hold-outs judge
HOLD_OUT_DRAWS = 30  # draws behind the coverage of held-out runs
SHOWN = 5000  # rows that pictures show at most
CLEARLY = 0.9  # hold-outs contradict the choice if another law's error is below this share of its own
TRIALS = 12  # that are proposed to tell dense from sparse, at most ...
CANDIDATES = 200  # ... out of this many
STUDY_DELTA = 1e-2  # near the noise between seeds: a fifth narrower intervals than the published 1e-3, same coverage


@dataclass(frozen=True)
class Curve:
    """Optima at one U along budgets: (m,) budgets, (draws + 1, m) sizes, densities and epochs, the
    fit's own first. unique: None where tokens are always fresh.
    """

    unique: float | None
    budgets: Array
    active: Array
    density: Array
    epochs: Array

    @property
    def label(self) -> str:
        """For a legend."""
        return "fresh tokens" if self.unique is None else f"U = {count(self.unique)}"


@dataclass(frozen=True)
class Study:
    """Everything the report shows. fit, draws and recommendations are absent if the table carries
    no law. laws: the ensemble that gives the answers; None where a law was asked for by name, or
    the table is large, and `fit` gives them. fit: the law that is explained. fresh: the best size
    and tokens along compute, for a table of one epoch. marks: what pictures show beside the rows.
    settle: trials that would tell dense from sparse, where no difference is shown. measured:
    the table's rows, where `runs` are its points at their best settings, with the losses that a
    model of the settings expects there.
    """

    runs: Runs
    cost: Cost
    box: Box
    tried: tuple[Candidate, ...]
    fit: Fit | None
    draws: Draws | None
    budgets: tuple[float, ...]
    recommendations: tuple[Recommendation, ...]
    curves: tuple[Curve, ...]
    warnings: tuple[str, ...]
    rmse: float = float("nan")
    comparison: Comparison | None = None
    laws: Ensemble | None = None
    fresh: Fresh | None = None
    marks: tuple[Mark, ...] = ()
    settle: Design | None = None
    measured: Runs | None = None

    @property
    def tuned(self) -> bool:
        """Whether `runs` are points at their best settings."""
        return self.measured is not None

    @property
    def table(self) -> Runs:
        """The rows of the table."""
        return self.runs if self.measured is None else self.measured

    @property
    def word(self) -> str:
        """What the losses of `runs` are."""
        return "tuned" if self.tuned else "measured"

    @cached_property
    def shown(self) -> Runs:
        """The runs that pictures show: all, or a sample of those at the commonest densities of a
        large table.
        """
        density = self.runs.points.density
        values, frequency = np.unique(density, return_counts=True)
        common = values[np.argsort(-frequency, kind="stable")[:MOST]]
        rows = np.flatnonzero(np.isin(density, common))
        if len(rows) > SHOWN:
            rows = np.sort(np.random.default_rng(0).choice(rows, SHOWN, replace=False))
        return self.runs.take(rows)


def analyse(
    runs: Runs,
    *,
    law: Law | None = None,
    budgets: Sequence[float] | None = None,
    cost: Cost = ACTIVE,
    box: Box | None = None,
    delta: float = STUDY_DELTA,
    seed: int = 0,
    bootstraps: int = 200,
    beside: Alone = ALONE,
    measured: Runs | None = None,
) -> Study:
    """Fit, uncertainty, optimum.

    law: None lets the table decide. budgets: in the cost's unit; none takes, for each U, the cost
    of the largest run over that U. box: where the optimum may lie; None is `Box.of(runs)`. delta:
    Huber threshold of every fit. beside: who shares the work. measured: the table's rows, where
    `runs` are its points at their best settings.

    Raises ValueError for a budget that is not positive, or a law by name that rows cannot carry.
    """
    _check(budgets or (), cost)
    box = box or Box.of(runs)
    spent = cost.of(runs.points)
    wanted = tuple(float(b) for b in budgets) if budgets else ()
    tried = candidates(runs, seed, delta, beside=beside) if law is None else ()
    chosen = pick(tried)
    wanted_law = law or (chosen.law if chosen else None)
    if wanted_law is None:
        lacking = _no_law(measured or runs, tried)
        return Study(runs, cost, box, tried, None, None, wanted, (), (), lacking, measured=measured)
    hold_outs = _hold_outs(runs, tried, delta, seed, min(bootstraps, HOLD_OUT_DRAWS), beside) if chosen else None
    fitted = _on_all_rows(chosen, wanted_law, runs, delta, seed)
    draws = bootstrap(fitted, bootstraps, seed)
    laws = ensemble(tried, min(bootstraps, ENSEMBLE_DRAWS), seed, beside) if chosen and len(runs) <= LARGE else None
    over = uniques(runs)
    asked = [(b, u) for u in over for b in wanted or (float(spent[_over(runs, u)].max()),)]
    recommendations = tuple(recommend(fitted, draws, *one, box, cost, laws, measured) for one in asked)
    curves = tuple(_curve(fitted, draws, unique, box, cost, spent) for unique in over)
    comparison = hold_outs() if hold_outs else None
    rmse = chosen.rmse if chosen else _cross_validated(fitted, seed)
    said = _hold_out_warning(fitted, comparison) + _too_close(recommendations, rmse) + of_laws(laws)
    return Study(
        runs, cost, box, tried, fitted, draws, wanted, recommendations, curves,
        warnings=of_fit(measured or runs, fitted, draws) + said,
        rmse=rmse,
        comparison=comparison,
        laws=laws,
        fresh=fresh(runs, tried, cost, min(bootstraps, ENSEMBLE_DRAWS), seed) if over == (None,) else None,
        marks=marks_of(recommendations),
        settle=_settle(fitted, draws, recommendations, box, cost),
        measured=measured,
    )  # fmt: skip


def _check(budgets: Sequence[float], cost: Cost) -> None:
    for budget in budgets:
        if not budget > 0 or not np.isfinite(budget):
            raise ValueError(f"budget {budget!r} is not a positive number of {cost.unit}")


def _on_all_rows(chosen: Candidate | None, law: Law, runs: Runs, delta: float, seed: int) -> Fit:
    """A large table's law is chosen on a sample; then it is fitted to all rows here."""
    if chosen and chosen.fit and len(chosen.fit.runs) == len(runs):
        return chosen.fit
    return fit(law, runs, delta=delta, seed=seed)


def _cross_validated(fitted: Fit, seed: int) -> float:
    """What a law that was asked for by name misses; on a sample of a large table."""
    return cross_validate(replace(fitted, runs=_sample(fitted.runs, seed)))[0]


def _sample(runs: Runs, seed: int) -> Runs:
    """All runs, or some of a large table."""
    if len(runs) <= LARGE:
        return runs
    return runs.take(np.sort(np.random.default_rng(seed).choice(len(runs), SAMPLE, replace=False)))


def _curve(fitted: Fit, draws: Draws, unique: float | None, box: Box, cost: Cost, spent: Array) -> Curve:
    theta = np.concatenate([fitted.theta[None], draws.theta[:CURVE_DRAWS]])
    budgets = np.geomspace(spent.min(), spent.max() * BEYOND, CURVE)
    found = search(fitted.law, np.repeat(theta, CURVE, axis=0), box, np.tile(budgets, len(theta)), unique, cost)
    shape = (len(theta), CURVE)
    return Curve(unique, budgets, *(values.reshape(shape) for values in (found.active, found.density, found.epochs)))


def uniques(runs: Runs) -> tuple[float | None, ...]:
    """The unique-token budgets to answer for, largest last: at most four of the table's; none for a
    table without repetition, whose tokens are fresh at every budget.
    """
    points = runs.points
    if (points.epochs <= MULTI).all() and levels(points.tokens) > 1:
        return (None,)
    return tuple(float(value) for value in few(points.unique, 4))


def _over(runs: Runs, unique: float | None) -> Array:
    """(n,) rows over U."""
    return np.ones(len(runs), dtype=bool) if unique is None else np.asarray(runs.points.unique == unique)


def _no_law(runs: Runs, tried: tuple[Candidate, ...]) -> tuple[str, ...]:
    found = [f"the table carries no law ({len(runs)} usable runs; {nearest_law(tried)})"]
    for density in few(runs.points.density)[::-1]:
        rows = np.flatnonzero(runs.points.density == density)
        best = int(rows[np.argmin(runs.loss[rows])])
        found.append(
            f"the best measured run at density {density:.3g} is {runs.ids[best]}: loss {runs.loss[best]:.4f} at "
            f"{_point(runs.points, best)}"
        )
    return tuple(found)


def _point(points: Points, row: int) -> str:
    return f"N = {points.active[row]:.3g}, {points.epochs[row]:.3g} epochs over {points.unique[row]:.3g} tokens"


def _hold_outs(
    runs: Runs, tried: tuple[Candidate, ...], delta: float, seed: int, draws: int, beside: Alone
) -> Callable[[], Comparison]:
    """How the laws of least cross-validated error extrapolate; on a sample of a large table."""
    runs = _sample(runs, seed)
    able = sorted((c for c in tried if c.fit is not None), key=lambda candidate: candidate.rmse)
    return begin(runs, [c.law for c in able[:HELD_OUT]], delta=delta, draws=draws, seed=seed, beside=beside)


def _too_close(recommendations: tuple[Recommendation, ...], rmse: float) -> tuple[str, ...]:
    """Where no difference between dense and sparse is shown and it is smaller than what the law
    typically misses by.
    """
    gaps = []
    for item in recommendations:
        sparse = [loss for density, loss in item.by_density if density < 1 and np.isfinite(loss)]
        if sparse and np.isfinite(item.dense_loss.value) and not item.shown:
            gaps.append(abs(item.dense_loss.value - min(sparse)))
    if not gaps or max(gaps) > rmse:
        return ()
    return (
        f"where no difference between dense and sparse is shown it is at most {max(gaps):.3f} nats, less than the "
        f"law's typical miss ({rmse:.3f}): a tie",
    )


def _hold_out_warning(fitted: Fit, comparison: Comparison | None) -> tuple[str, ...]:
    scores = comparison.scores if comparison is not None else {}
    if comparison and comparison.chosen and scores[comparison.chosen] < CLEARLY * scores.get(fitted.law.name, np.inf):
        return (f"beyond its rows the chosen law is not the best: {comparison.why}",)
    return ()


def _settle(
    fitted: Fit, draws: Draws, recommendations: tuple[Recommendation, ...], box: Box, cost: Cost
) -> Design | None:
    """The trials that would tell dense from sparse where the last answer does not."""
    last = recommendations[-1]
    if last.shown or not np.isfinite(last.saving.value):  # shown, or nothing to compare
        return None
    uniques = [last.unique] if last.unique is not None else np.unique(fitted.runs.points.unique).tolist()
    try:
        options = candidates_in(box, uniques, CANDIDATES, cost, most=last.budget)
        return design(draws, options, TRIALS, budget=last.budget, unique=last.unique, box=box, cost=cost, aim="saving")
    except (TooDearError, TooFewDrawsError):  # no trial, or no dense and sparse optimum, within the budget
        return None
