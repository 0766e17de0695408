"""Which law a table can carry, and which of those predicts best: the ladder from rich to plain.

A law asks for a minimum of rows, sizes, densities, epochs and unique budgets; what a table lacks is
said in words. Among the laws it can carry, the least error of grouped cross-validation decides,
over the rows that are no outliers. No rule of one standard error: its error is that of the best
law alone, which one bad row inflates, and then a plainer and worse law wins. Extrapolation is
judged in `compare`; here every row is predicted once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from analysis.beside import ALONE, Alone
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.joint import LARGE, SAMPLE, Fit, fit
from analysis.fit.outliers import outliers
from analysis.fit.problem import DELTA
from analysis.fit.refit import refit, starting_points
from analysis.laws import LAWS, Law

LADDER = (
    "sparse_published",
    "sparse_untied",
    "sparse_smooth",
    "sparse_smooth_untied",
    "sparse_identified",
    "sparse_identified_untied",
    "sparse_identified_overfit",
    "sparse_identified_overfit_linear",
    "sparse_small",
    "sparse_small_untied",
    "sparse_small_overfit",
    "sparse_small_overfit_linear",
    "sparse_small_coupled",
    "sparse_bounded",
    "sparse_one_epoch_untied",
    "sparse_one_epoch",
    "sparse_single_epoch_coupled",
    "sparse_single_epoch",
    "data_constrained_coupled",
    "data_constrained_untied",
    "data_constrained",
    "repeated_overfit_linear",
    "repeated",
    "bounded",
    "bounded_one_epoch",
    "chinchilla_coupled",
    "chinchilla",
    "chinchilla_tied",
)
FOLDS = 5
STARTS = 32  # descents per contender: fewer than a fit that is asked for by name
MULTI = 1.05  # epochs above this count as repetition
APART = np.log(1.1)  # values nearer than this are one level


@dataclass(frozen=True)
class Candidate:
    """One law of the ladder. lacking: why the table cannot carry it; unsuited: what varies in the
    table but not in the law; both empty if it was tried. rmse: cross-validated, nats, over the rows
    that are no outliers, with its standard error; NaN if not tried. out_of_fold: (n,) ln L of the
    fit's rows, each predicted without its specification. bad: (n,) which rows are outliers, by all
    laws that were tried.
    """

    law: Law
    lacking: tuple[str, ...] = ()
    unsuited: tuple[str, ...] = ()
    rmse: float = float("nan")
    error: float = float("nan")
    fit: Fit | None = None
    out_of_fold: Array | None = None
    bad: Array | None = None


def lacking(law: Law, runs: Runs) -> tuple[str, ...]:
    """What `runs` lacks to carry `law`, in words; empty if nothing."""
    points, saturation, alike = runs.points, law.saturation, level_of(runs.points.density)
    multi = points.epochs > MULTI
    sparse = points.density < 1
    needs = [
        (len(np.unique(runs.group)), max(len(law.names) + 2, int(1.5 * len(law.names))), "different runs"),
        (max(levels(points.active[alike == d]) for d in np.unique(alike)), 3, "sizes at one density"),
        (levels(points.tokens), 3, "token counts"),
        (levels(points.density[sparse]) + int((~sparse).any()), law.factor.levels + 1, "densities"),
    ]
    if saturation:
        needs.append((levels(points.epochs[multi]), 3 if law.penalty == "power" else 2, "epoch counts above 1"))
        needs.append((levels(points.density[multi & sparse]), saturation.levels, "sparse densities with repeated data"))
        if saturation.unique:
            needs.append((levels(points.unique[multi]), 3, "unique-token budgets with repeated data"))
    if law.penalty == "crowded":
        needs.append((levels(points.unique), 2, "unique-token budgets"))
        needs.append((levels(points.epochs), 2, "epoch counts"))
    return tuple(f"{need} {what} needed, {have} there" for have, need, what in needs if have < need)


def levels(values: Array) -> int:
    """How many clearly different values: a tenth apart or more (8 epochs, and 7.98 after a dropped
    tail, are one).
    """
    return int(level_of(values).max(initial=-1)) + 1


def level_of(values: Array) -> Array:
    """(n,) the number, from 0 up, of the level that each value belongs to."""
    distinct, inverse = np.unique(np.round(np.log(values), 3), return_inverse=True)
    number, last = np.zeros(len(distinct), dtype=int), -np.inf
    for place, value in enumerate(distinct):
        apart = bool(value - last > APART)
        number[place] = (number[place - 1] if place else -1) + apart
        last = value if apart else last
    return np.asarray(number[inverse])


def unsuited(law: Law, runs: Runs) -> tuple[str, ...]:
    """What varies in `runs` but not in `law`: such a law would fit, and answer another question."""
    found = []
    if levels(runs.points.density) > 1 and not law.factor.parameters:
        found.append("ignores density, which varies in this table")
    if (runs.points.epochs > MULTI).any() and not law.repeats:
        found.append("ignores repetition, which this table has")
    return tuple(found)


def candidates(
    runs: Runs,
    seed: int = 0,
    delta: float = DELTA,
    names: tuple[str, ...] = LADDER,
    beside: Alone = ALONE,
    measured: bool = True,
) -> tuple[Candidate, ...]:
    """Every law of the ladder, tried by cross-validation where the table can carry it and it fits
    the kind of table. measured: the losses are those of runs (`outliers`).

    A table with one density gets the dense laws only, one without repetition the one-epoch laws
    only.
    """
    if len(runs) > LARGE:  # which law is decided on a sample; the caller fits it to all rows
        runs = runs.take(np.sort(np.random.default_rng(seed).choice(len(runs), SAMPLE, replace=False)))
    tried = beside.each(partial(_try, runs, seed, delta), names)
    bad = outliers([c.fit for c in tried if c.fit is not None], measured)
    return tuple(_scored(candidate, bad) for candidate in tried)


def _try(runs: Runs, seed: int, delta: float, name: str) -> Candidate:
    """Not scored yet."""
    law = LAWS[name]
    missing, other = lacking(law, runs), unsuited(law, runs)
    if missing or other:
        return Candidate(law, missing, other)
    fitted = fit(law, runs, delta=delta, starts=STARTS, seed=seed)
    return Candidate(law, fit=fitted, out_of_fold=out_of_fold(fitted))


def _scored(candidate: Candidate, bad: Array) -> Candidate:
    if candidate.fit is None or candidate.out_of_fold is None:
        return candidate
    rmse, error = _error(candidate.out_of_fold, candidate.fit.runs, ~bad)
    return replace(candidate, rmse=rmse, error=error, bad=bad)


def pick(tried: tuple[Candidate, ...]) -> Candidate | None:
    """The law of least cross-validated error; None if no law was tried."""
    able = [candidate for candidate in tried if candidate.fit is not None]
    return min(able, key=lambda candidate: (candidate.rmse, len(candidate.law.names))) if able else None


def choose_law(runs: Runs, seed: int = 0, delta: float = DELTA) -> Law:
    """The law that `pick` takes from the ladder.

    Raises ValueError if the table carries none, naming the nearest one and what it lacks.
    """
    tried = candidates(runs, seed, delta)
    chosen = pick(tried)
    if chosen is None:
        raise ValueError(f"the table carries no law; {nearest_law(tried)}")
    return chosen.law


def nearest_law(tried: tuple[Candidate, ...]) -> str:
    """The law that lacks least among those that suit the table, in words."""
    nearest = min((c for c in tried if c.lacking and not c.unsuited), key=lambda c: (len(c.lacking), len(c.law.names)))
    return f"nearest is {nearest.law.name}: {'; '.join(nearest.lacking)}"


def cross_validate(fitted: Fit, folds: int = FOLDS) -> tuple[float, float]:
    """Root mean squared error (nats) of rows predicted without their specification, and its
    standard error.
    """
    return _error(out_of_fold(fitted, folds), fitted.runs, np.ones(len(fitted.runs), dtype=bool))


def out_of_fold(fitted: Fit, folds: int = FOLDS) -> Array:
    """(n,) ln L of every row, predicted by the law refitted (`refit`) without its specification."""
    runs, problem = fitted.runs, fitted.problem
    fold = _folds(runs, folds, fitted.seed)
    numbers = np.unique(fold)
    held = fold == numbers[:, None]
    solution = refit(problem, starting_points(fitted), (~held).astype(float))
    predicted = fitted.law.log_loss(problem.full(solution.free), runs.points)
    return np.asarray(predicted[np.searchsorted(numbers, fold), np.arange(len(runs))])


def _error(predicted: Array, runs: Runs, kept: Array) -> tuple[float, float]:
    squared = (np.exp(predicted) - runs.loss)[kept] ** 2
    rmse = float(np.sqrt(squared.mean()))
    error = squared.std(ddof=1) / np.sqrt(len(squared)) if len(squared) > 1 else 0.0
    return rmse, float(error / (2 * rmse)) if rmse > 0 else 0.0


def _folds(runs: Runs, folds: int, seed: int) -> Array:
    groups, inverse = np.unique(runs.group, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    return np.asarray((order % folds)[inverse])
