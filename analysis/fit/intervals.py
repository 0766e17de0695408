"""How sure a fit is: bootstrap draws of its parameters, and the intervals that follow from them.

Rows are resampled by specification, so that replicates stay together. Each draw is fitted anew
(`refit`: several starts, until converged), all draws in one batch; the share that converged is kept
beside them. `pairs` is the classical bootstrap; `smooth` gives every specification an exponential
weight instead of a count (Rubin 1981), which does not lose whole density levels of a small table.
Whatever is computed from a law is given its interval by computing it for every draw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array, Points
from analysis.fit.joint import LARGE, Fit, Minimum
from analysis.fit.refit import FRESH, STEPS, refit, starting_points
from analysis.fit.solver import minimise

Scheme = Literal["pairs", "smooth"]
SUBSAMPLE = 4096  # rows bootstrapped of a table above `LARGE`, in whole groups ...
GROUPS = 200  # ... of which there are as many at least, if the table has them


@dataclass(frozen=True)
class Draws:
    """theta: (k, p) parameter vectors, one per bootstrap draw of `fit`. converged: share of the
    draws whose refit ended by itself.
    """

    fit: Fit
    theta: Array
    scheme: Scheme
    converged: float = 1.0

    def parameter_intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile interval of every parameter, by natural name, in natural units."""
        low, high = self.interval(self.theta, self.fit.theta, level)
        return {
            parameter.natural_name: (
                parameter.natural(max(low[i], parameter.low)),
                parameter.natural(min(high[i], parameter.high)),
            )
            for i, parameter in enumerate(self.fit.law.parameters)
        }

    def interval(self, values: Array, estimate: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
        """Limits of anything computed for every draw (first axis), given its value at the fit.

        Percentiles, moved away from the estimate by `widen`. Give logarithms of positive
        quantities.
        """
        return widened(values, estimate, self.widen(level), level)

    def widen(self, level: float = 0.95) -> float:
        """`small_sample` of the fitted specifications and free parameters."""
        return small_sample(len(np.unique(self.fit.runs.group)), len(self.fit.problem.free), level)

    @cached_property
    def noise(self) -> float:
        """Residual sd of log loss, corrected for the number of free parameters."""
        rows, free = len(self.fit.runs), len(self.fit.problem.free)
        return float(np.sqrt(np.sum(self.fit.residuals**2) / max(1, rows - free)))

    def predict(self, points: Points, level: float = 0.95) -> tuple[Array, Array]:
        """(n,) lower and upper limits of the expected loss, nats per token."""
        expected = self.fit.law.log_loss(self.theta, points)
        low, high = self.interval(expected, np.log(self.fit.predict(points)), level)
        return np.exp(low), np.exp(high)

    def predict_run(self, points: Points, level: float = 0.95, seed: int = 0) -> tuple[Array, Array]:
        """(n,) limits of the loss of one new run: the law's uncertainty and one run's noise
        together.
        """
        expected = self.fit.law.log_loss(self.theta, points)
        even = (np.random.default_rng(seed).permutation(len(expected)) + 0.5) / len(expected)
        noise = np.quantile(self._centred_residuals, even)[:, None]
        low, high = self.interval(expected + noise, np.log(self.fit.predict(points)), level)
        return np.exp(low), np.exp(high)

    @cached_property
    def _centred_residuals(self) -> Array:
        residuals: Array = self.fit.residuals - np.median(self.fit.residuals)
        spread = np.sqrt(np.mean(residuals**2))
        return residuals * (self.noise / spread) if spread > 0 else residuals


def small_sample(groups: int, free: float, level: float = 0.95) -> float:
    """Small-sample factor: sqrt(n / (n - p)) for the residuals' shrinkage, Student's t over the
    normal quantile.

    n counts specifications, not replicates, because those are what the bootstrap resamples.
    """
    from scipy.special import ndtri, stdtrit

    degrees = max(1.0, groups - free)
    upper = 0.5 + 0.5 * level
    return float(np.sqrt(groups / degrees) * stdtrit(degrees, upper) / ndtri(upper))


def widened(values: Array, estimate: ArrayLike, factor: float, level: float = 0.95) -> tuple[Array, Array]:
    """Percentiles of draws (first axis), moved away from the estimate by a factor."""
    low, high = percentiles(values, level)
    centre, more = np.asarray(estimate, dtype=float), factor - 1.0
    return low - more * np.maximum(centre - low, 0.0), high + more * np.maximum(high - centre, 0.0)


def percentiles(values: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper limit over the first axis; NaN draws are left out."""
    tail = 50.0 * (1.0 - level)
    low, high = np.nanpercentile(np.asarray(values), [tail, 100.0 - tail], axis=0)
    return low, high


def bootstrap(
    fit: Fit, draws: int = 200, seed: int = 0, scheme: Scheme = "pairs", fresh: int = FRESH, steps: int = STEPS
) -> Draws:
    """Refit `draws` resampled tables, each from the fit's minima and `fresh` other starts, in so
    many steps at most. Deterministic given the seed.

    Raises ValueError for fewer than 2 draws or an unknown scheme.
    """
    if scheme not in ("pairs", "smooth"):
        raise ValueError(f"scheme is {scheme!r}; expected 'pairs' or 'smooth'")
    if len(fit.runs) > LARGE:
        return _subsampled(fit, draws, seed, scheme, fresh, steps)
    weights = resample(fit.runs.group, draws, np.random.default_rng(seed), scheme)
    solution = refit(fit.problem, starting_points(fit, fresh), weights, steps)
    return Draws(fit, fit.problem.full(solution.free), scheme, float(solution.converged.mean()))


def _subsampled(fit: Fit, draws: int, seed: int, scheme: Scheme, fresh: int, steps: int) -> Draws:
    """Draws of a large table: some of its groups are bootstrapped, all rows of each, and the spread
    is shrunk by the square root of their share among the groups. If these are more than `LARGE`
    rows, they are thinned, and the spread is rather too wide.
    """
    generator = np.random.default_rng(seed)
    inverse = np.unique(fit.runs.group, return_inverse=True)[1]
    size = np.bincount(inverse)
    order = generator.permutation(len(size))
    enough = int(np.searchsorted(np.cumsum(size[order]), SUBSAMPLE)) + 1
    taken = order[: max(enough, GROUPS)]
    rows = np.flatnonzero(np.isin(inverse, taken))
    if len(rows) > LARGE:
        rows = np.sort(generator.choice(rows, LARGE, replace=False))
    small = replace(fit, runs=fit.runs.take(rows), minima=())
    solution = minimise(small.problem, fit.theta[None, small.problem.free], fit.delta)
    centre = small.problem.full(solution.free)[0]
    small = replace(small, theta=centre, minima=(Minimum(centre, float(solution.objective[0])),))
    drawn = bootstrap(small, draws, seed, scheme, fresh, steps)
    shrunk = (drawn.theta - centre) * np.sqrt(len(taken) / len(size))
    return Draws(fit, fit.theta + shrunk, scheme, drawn.converged)


def resample(group: ArrayLike, draws: int, generator: np.random.Generator, scheme: Scheme) -> Array:
    """(draws, n) row weights: every group is drawn (or weighted) as a whole.

    Raises ValueError for fewer than 2 draws.
    """
    if draws < 2:
        raise ValueError(f"draws is {draws}; an interval needs at least 2, and 200 or more are sensible")
    inverse = np.unique(np.asarray(group), return_inverse=True)[1]
    groups = int(inverse.max()) + 1
    if scheme == "pairs":
        counts = generator.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(float)
    else:
        counts = generator.dirichlet(np.ones(groups), size=draws) * groups
    return np.asarray(counts[:, inverse])
