"""Which law a table can carry, and which of those predicts best: the ladder from rich to plain.

A law asks for a minimum of rows, sizes, densities, epochs and unique budgets; what a table lacks is
said in words. Among the laws it can carry, grouped cross-validation decides, and of laws within one
standard error of the best the one with the fewest parameters wins. Extrapolation is judged in
`compare`; here every row is predicted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.joint import LARGE, SAMPLE, Fit, fit
from analysis.fit.problem import DELTA, Problem
from analysis.fit.solver import minimise
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
    "sparse_single_epoch",
    "data_constrained_untied",
    "data_constrained",
    "repeated_overfit_linear",
    "repeated",
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
    table but not in the law; both empty if it was tried. rmse: cross-validated, nats, with its
    standard error; NaN if not tried.
    """

    law: Law
    lacking: tuple[str, ...] = ()
    unsuited: tuple[str, ...] = ()
    rmse: float = float("nan")
    error: float = float("nan")
    fit: Fit | None = None


def lacking(law: Law, runs: Runs) -> tuple[str, ...]:
    """What `runs` lacks to carry `law`, in words; empty if nothing."""
    points, saturation, alike = runs.points, law.saturation, density_class(runs.points)
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
    return tuple(f"{need} {what} needed, {have} there" for have, need, what in needs if have < need)


def levels(values: Array) -> int:
    """How many clearly different values: a tenth apart or more (8 epochs, and 7.98 after a dropped
    tail, are one).
    """
    found, last = 0, -np.inf
    for value in np.unique(np.round(np.log(values), 3)):
        if value - last > APART:
            found, last = found + 1, value
    return found


def density_class(points: Points) -> Array:
    """(n,) numbers that are equal for densities about a tenth apart or less: 0.1428 and 0.1429 are
    one density.
    """
    return np.asarray(np.round(points.log_density / APART))


def unsuited(law: Law, runs: Runs) -> tuple[str, ...]:
    """What varies in `runs` but not in `law`: such a law would fit, and answer another question."""
    found = []
    if levels(runs.points.density) > 1 and not law.factor.parameters:
        found.append("ignores density, which varies in this table")
    if (runs.points.epochs > MULTI).any() and law.saturation is None:
        found.append("ignores repetition, which this table has")
    return tuple(found)


def candidates(
    runs: Runs, seed: int = 0, delta: float = DELTA, names: tuple[str, ...] = LADDER
) -> tuple[Candidate, ...]:
    """Every law of the ladder, tried by cross-validation where the table can carry it and it fits
    the kind of table.

    A table with one density gets the dense laws only, one without repetition the one-epoch laws
    only.
    """
    tried = []
    if len(runs) > LARGE:  # which law is decided on a sample; the caller fits it to all rows
        runs = runs.take(np.sort(np.random.default_rng(seed).choice(len(runs), SAMPLE, replace=False)))
    for name in names:
        law = LAWS[name]
        missing, other = lacking(law, runs), unsuited(law, runs)
        if missing or other:
            tried.append(Candidate(law, missing, other))
            continue
        fitted = fit(law, runs, delta=delta, starts=STARTS, seed=seed)
        score, error = cross_validate(fitted)
        tried.append(Candidate(law, rmse=score, error=error, fit=fitted))
    return tuple(tried)


def pick(tried: tuple[Candidate, ...]) -> Candidate | None:
    """The plainest law within one standard error of the best; None if no law was tried."""
    able = [candidate for candidate in tried if candidate.fit is not None]
    if not able:
        return None
    best = min(able, key=lambda candidate: candidate.rmse)
    near = [candidate for candidate in able if candidate.rmse <= best.rmse + best.error]
    return min(near, key=lambda candidate: (len(candidate.law.names), candidate.rmse))


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
    runs = fitted.runs
    fold = _folds(runs, folds, fitted.seed)
    squared = np.empty(len(runs))
    for number in range(folds):
        out = fold == number
        if not out.any():
            continue
        theta = _refit(fitted, runs.take(~out))
        squared[out] = (fitted.law.predict(theta, runs.points.take(out)) - runs.loss[out]) ** 2
    mean = squared.mean()
    error = squared.std(ddof=1) / np.sqrt(len(squared)) if len(squared) > 1 else 0.0
    rmse = float(np.sqrt(mean))
    return rmse, float(error / (2 * rmse)) if rmse > 0 else 0.0


def _refit(fitted: Fit, runs: Runs) -> Array:
    problem = Problem(fitted.law, runs.points, runs.log_loss, fitted.fixed, fitted.prior, fitted.delta)
    starts = np.stack([minimum.theta[problem.free] for minimum in fitted.minima[:5]])
    solution = minimise(problem, starts, fitted.delta, steps=60, tolerance=1e-7)
    best: Array = problem.full(solution.free[[int(solution.objective.argmin())]])[0]
    return best


def _folds(runs: Runs, folds: int, seed: int) -> Array:
    groups, inverse = np.unique(runs.group, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    return np.asarray((order % folds)[inverse])
