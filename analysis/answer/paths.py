"""Whole functions drawn from a surrogate's posterior, cheap to evaluate anywhere.

A draw is a random function of the prior (the quadratic mean exactly, the Matern part by random
Fourier features) plus the correction that makes it pass the rows up to their noise (Matheron's
rule; Wilson et al. 2020, arXiv 2002.09309). So each draw has its own optimum, found like that of
the mean, and everything that follows from an optimum gets its interval. The draws are divided
evenly over the surrogate's processes, and so carry the uncertainty of the hyperparameters.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.data.points import Array
from analysis.fit.gaussian import JITTER, WIDER, Process

FREQUENCIES = 256  # of the Fourier features; the error of a draw's covariance is about 1 / 16


@dataclass(frozen=True)
class _Bundle:
    """The draws of one process. turns: (f, p) frequencies; loads: (features, b) random weights;
    pulls: (n, b) corrections by the rows.
    """

    process: Process
    turns: Array
    loads: Array
    pulls: Array

    def features(self, at: Array) -> Array:
        """(k, features) whose products have the prior's covariance, at (k, p)."""
        constant, linear, quadratic, smooth = self.process.scales
        carried = self.process.trend.columns
        phase = at @ self.turns.T
        products = at[:, :, None] * at[:, None, :]
        products[:, :carried, :carried] = 0.0
        pairs = products.reshape(len(at), -1)
        waves = smooth / np.sqrt(len(self.turns))
        return np.hstack(
            [
                np.full((len(at), 1), constant),
                linear * np.where(np.arange(at.shape[1]) < carried, 0.0, at),
                quadratic * pairs,
                waves * np.cos(phase),
                waves * np.sin(phase),
            ]
        )

    def basis(self, at: Array) -> Array:
        """(k, features + n): what `weights` multiplies."""
        return np.hstack([self.features(at), self.process.covariance(at, self.process.inputs)])

    @property
    def weights(self) -> Array:
        return np.vstack([self.loads, self.pulls])


@dataclass(frozen=True)
class Paths:
    """b drawn functions of (p,) columns; values are the surrogate's warped losses."""

    bundles: tuple[_Bundle, ...]

    def __len__(self) -> int:
        return sum(bundle.loads.shape[1] for bundle in self.bundles)

    def at(self, columns: Array) -> Array:
        """(b, k) every draw at the same (k, p) places."""
        return np.concatenate(
            [
                (bundle.process.prior(columns)[:, None] + bundle.basis(columns) @ bundle.weights).T
                for bundle in self.bundles
            ]
        )

    def each(self, columns: Array) -> Array:
        """(b, t) every draw at its own (b, t, p) places."""
        values, begin = [], 0
        for bundle in self.bundles:
            count = bundle.loads.shape[1]
            own = columns[begin : begin + count]
            flat = own.reshape(own.shape[0] * own.shape[1], own.shape[2])
            basis = bundle.basis(flat).reshape(*own.shape[:2], -1)
            values.append(
                bundle.process.prior(flat).reshape(own.shape[:2]) + np.einsum("btf,fb->bt", basis, bundle.weights)
            )
            begin += count
        return np.concatenate(values)


def draw(
    processes: tuple[Process, ...],
    count: int,
    seed: int = 0,
    values: Array | None = None,
    counts: Array | None = None,
) -> Paths:
    """About `count` functions (a multiple of the number of processes); same seed, same draws.

    values: (n, b) what each of the b draws of a single process passes, instead of its own values.
    counts: (n, b) how often each row was resampled for it; then the resampling is the noise, and
    no other is added.
    """
    generator = np.random.default_rng(seed)
    each = max(1, round(count / len(processes)))
    return Paths(tuple(_bundle(process, each, generator, values, counts) for process in processes))


def _bundle(
    process: Process, count: int, generator: np.random.Generator, values: Array | None, counts: Array | None
) -> _Bundle:
    rows, width = process.inputs.shape
    # The spectrum of a Matern kernel of order 5/2 is Student's t with five degrees of freedom.
    stretch = np.sqrt(generator.chisquare(5, (FREQUENCIES, 1)) / 5)
    turns = generator.standard_normal((FREQUENCIES, width)) / process.lengths / stretch
    loads = generator.standard_normal((1 + width + width**2 + 2 * FREQUENCIES, count))
    bare = _Bundle(process, turns, loads, np.zeros((rows, count)))
    rough = WIDER * bare.features(process.inputs) @ loads
    seen = (process.values[:, None] if values is None else values) - process.prior(process.inputs)[:, None]
    if counts is not None:
        return replace(bare, loads=WIDER * loads, pulls=_resampled(process, seen - rough, counts))
    noise = (WIDER * process.noise * process.louder)[:, None] * generator.standard_normal((rows, count))
    return replace(bare, loads=WIDER * loads, pulls=process.solve(seen + noise - rough))


def _resampled(process: Process, right: Array, counts: Array) -> Array:
    """(n, b) the covariance of each draw's own rows, solved for `right` (n, b): a row that counts
    twice has half the noise variance, one that was left out pulls at nothing.
    """
    prior = process.covariance(process.inputs, process.inputs)
    variance = (process.noise * process.louder) ** 2
    pulls = np.zeros_like(right)
    for place in range(counts.shape[1]):
        rows = np.flatnonzero(counts[:, place] > 0)
        matrix = prior[np.ix_(rows, rows)]
        matrix[np.diag_indices(len(rows))] += variance[rows] / counts[rows, place] + JITTER * prior.max()
        pulls[rows, place] = np.linalg.solve(matrix, right[rows, place])
    return pulls
