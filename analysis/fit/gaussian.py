"""A Gaussian process with a quadratic prior mean: smooth regression on tens to hundreds of rows.

The mean's coefficients are integrated out: a constant, a linear and a quadratic kernel stand beside
the Matern one, so a few rows are answered by a shrunk parabola and many by what they say. The
hyperparameters (a scale for each part, a length for each column, the noise) are those of greatest
posterior probability; their priors are weak and in units of the columns, which the caller brings to
about [-1, 1]. How unsure they are is told by further processes, drawn from their posterior: with
few rows the likeliest one alone is too sure of itself. It is written here because scikit-learn's
takes no quadratic mean and is slower on a few dozen rows. Left out: what the columns mean
(`surrogate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array

ROOT5 = float(np.sqrt(5.0))
PARTS = ("constant", "linear", "quadratic", "smooth")  # scales, then one length a column, then the noise
LENGTH = (2.0, 0.5)  # prior of a length, in half-ranges of its column: median, sd of the logarithm
SPREAD = 1.0  # sd of the logarithm of every scale
DEPTH = 0.4  # prior of the bowl along settings, in sds of the values
WIDER = 1.25  # of posterior sds: so much wider than the formula were errors at chosen runs of simulated tables
DIFFERENCE = 0.05  # step of the second derivatives, in sds of the prior
LEAST_BEND = 0.5  # curvature that a direction has at least; the prior alone has 1
JITTER = 1e-9  # share of the prior variance that is added to the diagonal
MOST = 300  # rows that the hyperparameters are found on


@dataclass(frozen=True)
class Trend:
    """What is known of the value beforehand: (k,) values at (k, p) columns; 0 where none is given.

    columns: so many leading columns it carries. The linear and quadratic parts then hold only what
    involves another column, and what the trend misses is left to the smooth part.
    """

    columns: int = 0
    value: Callable[[Array], Array] | None = None

    def of(self, at: Array) -> Array:
        return np.zeros(len(at)) if self.value is None else self.value(at)


NONE = Trend()


@dataclass(frozen=True)
class Process:
    """A fitted process. inputs: (n, p); values: (n,); scales: (4,) sds of `PARTS`; lengths: (p,);
    bowl: (p,) what a square of each column adds to the value expected beforehand. noise times
    `louder` (n,): sd of each row about its expected value.

    root: (n, n) Cholesky factor of the rows' covariance; weights: (n,) its solution for the values.
    """

    inputs: Array
    values: Array
    centre: float
    bowl: Array
    scales: Array
    lengths: Array
    noise: float
    louder: Array
    root: Array
    weights: Array
    trend: Trend

    def covariance(self, one: Array, other: Array) -> Array:
        """(k, m) prior covariance of expected values at `one` (k, p) and `other` (m, p)."""
        return np.asarray(np.sum(_parts(one, other, self.scales, self.lengths, self.trend.columns), axis=0))

    def variance(self, at: Array) -> Array:
        """(k,) prior variance at `at` (k, p)."""
        told = (at[:, : self.trend.columns] ** 2).sum(axis=1)
        square = (at**2).sum(axis=1)
        constant, linear, quadratic, smooth = self.scales**2
        return np.asarray(constant + linear * (square - told) + quadratic * (square**2 - told**2) + smooth)

    def mean(self, at: Array) -> Array:
        """(k,) expected value at `at` (k, p)."""
        return np.asarray(self.prior(at) + self.covariance(at, self.inputs) @ self.weights)

    def solve(self, right: Array) -> Array:
        """(n, ...) the rows' covariance solved for `right`."""
        return _solve(self.root, right)

    def left_out(self) -> Array:
        """(n,) sds by which each value is off from what the others say of it, a row's noise
        included; the hyperparameters are those that saw it (Rasmussen and Williams 2006, 5.12).
        """
        return np.asarray(self.weights / np.sqrt(np.diag(self.solve(np.eye(len(self.values))))))

    def prior(self, at: Array) -> Array:
        """(k,) value expected before any row was seen: the trend, the centre and a bowl."""
        return np.asarray(self.trend.of(at) + self.centre + at**2 @ self.bowl)

    def predict(self, at: Array) -> tuple[Array, Array]:
        """(k,) expected value, and its sd (`WIDER` than the formula's) without a row's noise."""
        from scipy.linalg import solve_triangular

        across = self.covariance(at, self.inputs)
        half = solve_triangular(self.root, across.T, lower=True, check_finite=False)
        variance = self.variance(at) - (half**2).sum(axis=0)
        return self.prior(at) + across @ self.weights, np.sqrt(np.maximum(variance, 0.0)) * WIDER

    def joint(self, at: Array) -> tuple[Array, Array]:
        """(k,) expected values and their (k, k) posterior covariance."""
        from scipy.linalg import solve_triangular

        across = self.covariance(at, self.inputs)
        half = solve_triangular(self.root, across.T, lower=True, check_finite=False)
        return self.prior(at) + across @ self.weights, WIDER**2 * (self.covariance(at, at) - half.T @ half)


def fit_process(
    inputs: Array,
    values: Array,
    noise: float,
    bowl: Array,
    louder: Array,
    draws: int = 0,
    trends: Sequence[Trend] = (NONE,),
    noise_sd: float = SPREAD,
) -> tuple[Process, ...]:
    """Processes through (n, p) inputs and (n,) values: first the likeliest, then `draws` others
    with hyperparameters drawn from their posterior (Laplace). Same rows, same answer.

    noise: what the noise is thought to be beforehand (the prior's median), in units of the values,
    with noise_sd of its logarithm; louder: (n,) each row's noise in units of that. bowl: (p,) which
    columns' squares are expected to add to the value. trends: one for all processes, or one for
    each; the hyperparameters are those of the first.
    Above `MOST` rows the hyperparameters come from an even subset.
    """
    from scipy.optimize import minimize

    told = values - trends[0].of(inputs)
    centre = float(np.median(told))
    some = np.unique(np.linspace(0, len(values) - 1, min(MOST, len(values))).astype(int))
    objective = _Objective(inputs[some], told[some] - centre, noise, noise_sd, bowl, louder[some], trends[0].columns)
    found = min(
        (
            minimize(objective, start, jac=True, method="L-BFGS-B", bounds=objective.bounds, options={"maxiter": 80})
            for start in objective.starts()
        ),
        key=lambda result: float(result.fun),
    )
    vectors = np.vstack([found.x, objective.around(found.x, draws)])
    each = [trends[place % len(trends)] for place in range(len(vectors))]
    return tuple(
        _process(inputs, values, centre, bowl, louder, trend, *objective.split(vector))
        for vector, trend in zip(vectors, each, strict=True)
    )


def spread(dimensions: int, count: int, shift: int = 0) -> Array:
    """(count, dimensions) points spread evenly over the open unit cube: multiples of the powers of
    a generalised golden ratio (Roberts 2018). `shift` gives other points.
    """
    ratio = 2.0
    for _ in range(40):
        ratio = (1 + ratio) ** (1 / (dimensions + 1))
    steps = ratio ** -np.arange(1.0, dimensions + 1)
    return np.asarray((0.5 + (count * shift + 1 + np.arange(count))[:, None] * steps) % 1.0)


def _process(
    inputs: Array,
    values: Array,
    centre: float,
    bowl: Array,
    louder: Array,
    trend: Trend,
    scales: Array,
    lengths: Array,
    noise: float,
    depth: float,
) -> Process:
    root = _root(np.sum(_parts(inputs, inputs, scales, lengths, trend.columns), axis=0), noise * louder)
    weights = _solve(root, values - trend.of(inputs) - centre - depth * (inputs**2 @ bowl))
    return Process(inputs, values, centre, depth * bowl, scales, lengths, noise, louder, root, weights, trend)


class _Objective:
    """Minus the log posterior of the logarithms of (scales, lengths, noise), with its gradient."""

    def __init__(
        self, inputs: Array, values: Array, noise: float, noise_sd: float, bowl: Array, louder: Array, carried: int
    ):
        self.inputs, self.values, self.raised = inputs, values, inputs**2 @ bowl
        self.louder, self.carried = louder, carried
        spread = max(float(np.std(values)), noise)
        scales = np.log([2 * spread, spread, 0.5 * spread, 0.5 * spread])
        lengths = np.full(inputs.shape[1], np.log(LENGTH[0]))
        self.middle = np.concatenate([scales, lengths, [np.log(noise), np.log(DEPTH * spread)]])
        self.width = np.concatenate([np.full(4, SPREAD), np.full(len(lengths), LENGTH[1]), [noise_sd, SPREAD]])
        self.bounds = [(m - 4 * w, m + 4 * w) for m, w in zip(self.middle, self.width, strict=True)]
        self.gaps = (inputs[:, None, :] - inputs[None, :, :]) ** 2

    def starts(self) -> list[Array]:
        rough = self.middle.copy()
        rough[3] += 1.0
        rough[4:-2] -= 0.7
        return [self.middle, rough]

    def split(self, at: Array) -> tuple[Array, Array, float, float]:
        return np.exp(at[:4]), np.exp(at[4:-2]), float(np.exp(at[-2])), float(np.exp(at[-1]))

    def around(self, at: Array, draws: int) -> Array:
        """(draws, q) vectors from the normal that matches the curvature at the optimum `at`."""
        if not draws:
            return np.empty((0, len(at)))
        from scipy.special import ndtri

        step = DIFFERENCE * self.width
        ends = [[self(at + sign * step * row)[1] for sign in (1, -1)] for row in np.eye(len(at))]
        bend = np.array([(up - down) / 2 for up, down in ends]) / step[:, None] * np.outer(self.width, self.width)
        values, vectors = np.linalg.eigh(0.5 * (bend + bend.T))
        root = vectors * np.maximum(values, LEAST_BEND) ** -0.5
        cube = spread(len(at), draws)
        drawn = at + self.width * (ndtri(cube) @ root.T)
        low, high = np.array(self.bounds).T
        return np.asarray(np.clip(drawn, low, high))

    def __call__(self, at: Array) -> tuple[float, Array]:
        scales, lengths, noise, depth = self.split(at)
        parts = _parts(self.inputs, self.inputs, scales, lengths, self.carried)
        root = _root(np.sum(parts, axis=0), noise * self.louder)
        values = self.values - depth * self.raised
        weights = _solve(root, values)
        off = (at - self.middle) / self.width
        value = 0.5 * values @ weights + np.log(np.diag(root)).sum() + 0.5 * (off**2).sum()
        inverse = _solve(root, np.eye(len(root)))
        pull = inverse - np.outer(weights, weights)  # twice the derivative by the covariance
        slope = np.empty_like(at)
        slope[:4] = [(pull * part).sum() for part in parts]
        distance = np.sqrt(self.gaps @ lengths**-2)
        steep = pull * (scales[3] ** 2 * 5 / 3 * (1 + ROOT5 * distance) * np.exp(-ROOT5 * distance))
        slope[4:-2] = 0.5 * np.einsum("ij,ijk->k", steep, self.gaps) * lengths**-2
        slope[-2] = noise**2 * (np.diag(pull) @ self.louder**2)
        slope[-1] = -depth * (self.raised @ weights)
        return float(value), slope + off / self.width


def _parts(one: Array, other: Array, scales: Array, lengths: Array, carried: int = 0) -> list[Array]:
    """The four terms of the prior covariance, each (k, m). carried: leading columns that a trend
    carries.
    """
    product = one @ other.T
    told = one[:, :carried] @ other[:, :carried].T
    near, far = one / lengths, other / lengths
    square = (near**2).sum(axis=1)[:, None] + (far**2).sum(axis=1)[None] - 2 * near @ far.T
    distance = ROOT5 * np.sqrt(np.maximum(square, 0.0))
    smooth = (1 + distance + distance**2 / 3) * np.exp(-distance)
    constant, linear, quadratic, rest = scales**2
    return [
        np.full_like(product, constant),
        linear * (product - told),
        quadratic * (product**2 - told**2),
        rest * smooth,
    ]


def _root(prior: Array, noise: Array) -> Array:
    from scipy.linalg import cholesky

    rows = np.arange(len(prior))
    total = prior.copy()
    total[rows, rows] += noise**2 + JITTER * prior[rows, rows].max()
    return np.asarray(cholesky(total, lower=True, check_finite=False))


def _solve(root: Array, right: Array) -> Array:
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((root, True), right, check_finite=False))
