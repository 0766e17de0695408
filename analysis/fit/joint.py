"""Fit one law to one table, from default settings, without being told where to start.

Guesses -> a diverse few -> descent under delta 1e-1, 1e-2 and the wanted delta -> the minima found,
best first. The published procedure is kept beside it as `fit.staged`; we prefer the joint fit,
because the stages are biased (docs/analysis.md). A `Fit` is a value: the law, its parameters, and
everything needed to repeat it. Intervals are added by `fit.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.problem import DELTA, Prior, Problem
from analysis.fit.solver import Solution, minimise
from analysis.fit.starts import choose, guesses
from analysis.laws.law import Law
from analysis.laws.named import LAWS

CONTINUATION = (1e-1, 1e-2)  # Huber thresholds on the way to the wanted one
EFFORT = 200_000  # starts are chosen so that starts * rows * parameters is about this
SCREEN = 130_000  # ... and guesses so that guesses * rows is about this
PROMISING = 1.15  # starts this close to the best after 30 steps are followed to the end
SKETCH = 128  # rows that guesses are judged on
LARGE = 20_000  # rows above which everything but the last descent uses a random subset ...
SAMPLE = 2048  # ... of this size


@dataclass(frozen=True)
class Minimum:
    """One local minimum: the law's full parameter vector (p,) and its objective."""

    theta: Array
    objective: float


@dataclass(frozen=True)
class Fit:
    """A fitted law. theta: (p,) parameters in the law's stored coordinates. minima: all found near
    the best.

    delta: Huber threshold used. fixed: parameters that were not free. seed: of the starts.
    """

    law: Law
    runs: Runs
    theta: Array
    objective: float
    minima: tuple[Minimum, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict)
    prior: Prior | None = None
    delta: float = DELTA
    seed: int = 0

    @property
    def stored(self) -> dict[str, float]:
        """Parameters by stored name (`ln_A`, ...)."""
        return {name: float(value) for name, value in zip(self.law.names, self.theta, strict=True)}

    @property
    def parameters(self) -> dict[str, float]:
        """Parameters by natural name and in natural units (`A`, `R_D`, ...)."""
        pairs = zip(self.law.parameters, self.theta, strict=True)
        return {parameter.natural_name: parameter.natural(value) for parameter, value in pairs}

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.law, self.runs.points, self.runs.log_loss, self.fixed, self.prior, self.delta)

    @cached_property
    def residuals(self) -> Array:
        """(n,) ln L_hat - ln L of the fitted rows."""
        predicted: Array = self.law.log_loss(self.theta[None], self.runs.points)[0]
        return predicted - self.runs.log_loss

    @property
    def rmse(self) -> float:
        """Root mean squared error of the loss, nats per token."""
        return float(np.sqrt(np.mean((self.predict(self.runs.points) - self.runs.loss) ** 2)))

    @property
    def r2(self) -> float:
        """Share of the variance of the loss that the law explains; NaN if the loss does not
        vary.
        """
        spread = np.sum((self.runs.loss - self.runs.loss.mean()) ** 2)
        error = np.sum((self.predict(self.runs.points) - self.runs.loss) ** 2)
        return float(1 - error / spread) if spread > 0 else float("nan")

    def predict(self, points: Points) -> Array:
        """(n,) loss in nats per token."""
        return self.law.predict(self.theta, points)


def fit(
    law: Law,
    runs: Runs,
    *,
    fixed: Mapping[str, float] | None = None,
    prior: Prior | None = None,
    delta: float = DELTA,
    starts: int | None = None,
    warm: ArrayLike | None = None,
    seed: int = 0,
) -> Fit:
    """Fit `law` to `runs`: the least sum of Huber(delta) of log-loss residuals.

    fixed: stored parameter names held at a value. starts: descents (default: by size of the
    problem). warm: (k, p) parameter vectors to descend from as well. seed: shifts the start
    sequence; same seed, same answer.

    Raises ValueError if there are fewer specifications than free parameters, or a fixed name is
    unknown.
    """
    problem = Problem(law, runs.points, runs.log_loss, dict(fixed or {}), prior, delta)
    free = len(problem.free)
    distinct = len(np.unique(runs.group))
    if distinct < free and prior is None:
        raise ValueError(
            f"law {law.name!r} has {free} free parameters but the table has {distinct} different runs; "
            f"{_smaller(law, distinct)}"
        )
    whole = problem
    if len(runs) > LARGE:
        rows = np.sort(np.random.default_rng(seed).choice(len(runs), SAMPLE, replace=False))
        problem = Problem(law, runs.points.take(rows), runs.log_loss[rows], problem.fixed, prior, delta)
    wanted = starts or int(np.clip(EFFORT // (len(problem.points) * free), 8, 64))
    sketch = _sketch(problem)
    candidates = guesses(sketch, int(np.clip(SCREEN // len(sketch.points), 512, 4096)), seed)
    smooth = choose(sketch, candidates, wanted, CONTINUATION[0])
    if warm is not None:
        smooth = np.concatenate([np.atleast_2d(np.asarray(warm, dtype=float))[:, problem.free], smooth])
    # Continuation finds the best basin; direct descents list the kinked minima beside it.
    direct = choose(sketch, candidates, max(4, wanted // 2), delta)
    solution = minimise(
        problem, np.concatenate([descend(problem, smooth).free, direct]), delta, steps=30, tolerance=1e-7
    )
    near = solution.objective <= PROMISING * solution.objective.min() + 1e-20
    solution = minimise(problem, solution.free[near], delta)
    if problem is not whole:
        solution = minimise(whole, solution.free[np.argsort(solution.objective)[:1]], delta, steps=60)
    minima = _distinct(whole, solution)
    return Fit(law, runs, minima[0].theta, minima[0].objective, minima, problem.fixed, prior, delta, seed)


def _smaller(law: Law, rows: int) -> str:
    """Advice: the richest named law whose parameters are among this law's and that so many runs can
    determine.
    """
    nested = [other for other in LAWS.values() if set(other.names) < set(law.names) and len(other.names) < rows]
    if not nested:
        return "no law can be fitted to so few; add runs, fix parameters, or give a prior"
    best = max(nested, key=lambda other: len(other.names))
    return f"{best.name!r} with {len(best.names)} would do, or fix some parameters"


def descend(problem: Problem, begin: Array, weights: Array | None = None) -> Solution:
    """Minimise from (b, q) starts under falling Huber thresholds; each stage keeps the better
    half.
    """
    for delta in CONTINUATION:
        if delta <= problem.delta:
            break
        solution = minimise(problem, begin, delta, weights, steps=25, tolerance=1e-4)
        order = np.argsort(solution.objective, kind="stable")
        begin = solution.free[order[: max(4, len(order) // 2)]]
    return minimise(problem, begin, problem.delta, weights, steps=25, tolerance=1e-4)


def _sketch(problem: Problem) -> Problem:
    """The problem on a few rows, evenly taken along density, repetition and tokens, so that no
    level is lost.
    """
    points = problem.points
    if len(points) <= SKETCH:
        return problem
    order = np.lexsort([points.active, points.tokens, np.round(points.epochs, 2), points.density])
    rows = order[np.linspace(0, len(order) - 1, SKETCH).astype(int)]
    return replace(problem, points=points.take(rows), log_loss=problem.log_loss[rows])


def _distinct(problem: Problem, solution: Solution, within: float = 0.05) -> tuple[Minimum, ...]:
    """Minima whose objective is within 5 % of the best and which differ from every better one."""
    order = np.argsort(solution.objective, kind="stable")
    best = solution.objective[order[0]]
    if not np.isfinite(best):
        raise ValueError(
            f"no start of law {problem.law.name!r} reached a finite objective; "
            f"check the units of the table (losses in nats, counts not in millions)"
        )
    kept: list[int] = []
    for index in order:
        value = solution.objective[index]
        if value > best * (1 + within) + 1e-20:
            break
        if all(not _same(solution, index, other) for other in kept):
            kept.append(int(index))
    vectors = problem.full(solution.free[kept])
    return tuple(Minimum(theta, float(solution.objective[i])) for theta, i in zip(vectors, kept, strict=True))


def _same(solution: Solution, one: int, other: int) -> bool:
    close = np.abs(solution.free[one] - solution.free[other]) <= 1e-4 * (1 + np.abs(solution.free[other]))
    value, reference = solution.objective[one], solution.objective[other]
    return bool(close.all()) or bool(abs(value - reference) <= 1e-7 * reference)
