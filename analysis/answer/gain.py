"""What one more run would be worth: how much lower the best expected loss is once it is known.

A run is not worth its own loss but what it teaches about the answer: a cheap run may tell which
large one to train. For a Gaussian process that is the knowledge gradient (Frazier, Powell and
Dayanik 2009, INFORMS J. Computing 21): the expected least mean after the run, below the least mean
now. It is taken over the targets that may be the answer, for each process of a surrogate, and
averaged. Left out: what a run costs (the caller divides by it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.answer.surrogate import Surrogate
from analysis.answer.warp import Warp
from analysis.data.points import Array
from analysis.fit.gaussian import JITTER, WIDER, Process

NODES = 9  # of the quadrature over a run's outcome
HOPEFUL = 200  # targets looked at: those of the least mean minus sd


@dataclass(frozen=True)
class Question:
    """Targets among which the answer lies: columns (t, p). groups: (t,) numbers; each group has an
    answer of its own (a point of a plan), and a run is worth the sum over them.
    """

    columns: Array
    groups: Array

    @classmethod
    def one(cls, columns: Array) -> Question:
        """The targets of a single answer."""
        return cls(columns, np.zeros(len(columns), dtype=int))


def gains(model: Surrogate, processes: Sequence[Process], candidates: Array, question: Question) -> Array:
    """(g, m) expected fall, in nats, of the least expected loss of each group, from one run at each
    candidate (m, p). `processes` are the model's, or those that `believing` gives.
    """
    base = model.base(question.columns)
    per_process = [_gains(model.warp, base, process, candidates, question) for process in processes]
    return np.asarray(np.mean(per_process, axis=0))


def _gains(warp: Warp, base: Array, process: Process, candidates: Array, question: Question) -> Array:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    mean, sd = process.predict(question.columns)
    hope = warp.outward(mean - sd, base)
    loud = process.noise * warp.loudness(process.mean(candidates), process.noise)
    found = []
    for group in np.unique(question.groups):
        members = np.flatnonzero(question.groups == group)
        members = members[np.argsort(hope[members], kind="stable")[:HOPEFUL]]
        now = mean[members][:, None]
        shared, spread = _shared(process, question.columns[members], candidates)
        slope = shared / np.sqrt(spread + loud**2)  # (t, m): by how much a target moves
        under = base[members][:, None]
        later = np.stack([warp.outward(now + node * slope, under).min(axis=0) for node in nodes])
        # The average of a target over nodes is not its loss now, as the way outward is curved.
        start = weights @ np.stack([_at(warp.outward(now + node * slope, under), now, under, warp) for node in nodes])
        found.append(np.maximum(start - weights @ later, 0.0))
    return np.array(found)


def _at(later: Array, now: Array, under: Array, warp: Warp) -> Array:
    """(m,) what the answer of now would come to, later."""
    return np.asarray(later[int(np.argmin(warp.outward(now, under)))])


def expected(model: Surrogate, processes: Sequence[Process], columns: Array) -> Array:
    """(n,) expected loss, nats: the median of each process, averaged."""
    base = model.base(columns)
    return np.asarray(np.mean([model.warp.outward(process.mean(columns), base) for process in processes], axis=0))


def _shared(process: Process, targets: Array, candidates: Array) -> tuple[Array, Array]:
    """(t, m) posterior covariance of targets and candidates, and the (m,) variance of these."""
    from scipy.linalg import solve_triangular

    left = solve_triangular(process.root, process.covariance(targets, process.inputs).T, lower=True)
    right = solve_triangular(process.root, process.covariance(candidates, process.inputs).T, lower=True)
    variance = np.maximum(process.variance(candidates) - (right**2).sum(axis=0), 0.0)
    return WIDER**2 * (process.covariance(targets, candidates) - left.T @ right), WIDER**2 * variance


def believing(model: Surrogate, columns: Array) -> tuple[Process, ...]:
    """The model's processes as if runs at `columns` (k, p) had ended as expected: what is running
    is not proposed again, and what it will teach is counted.
    """
    if not len(columns):
        return model.processes
    from scipy.linalg import cho_solve, cholesky

    found = []
    for process in model.processes:
        inputs = np.vstack([process.inputs, columns])
        mean = process.mean(columns)
        values = np.concatenate([process.values, mean])
        louder = np.concatenate([process.louder, model.warp.loudness(mean, process.noise)])
        prior = process.covariance(inputs, inputs)
        rows = np.arange(len(prior))
        prior[rows, rows] += (process.noise * louder) ** 2 + JITTER * prior.diagonal().max()
        root = np.asarray(cholesky(prior, lower=True))
        weights = np.asarray(cho_solve((root, True), values - process.prior(inputs)))
        found.append(replace(process, inputs=inputs, values=values, louder=louder, root=root, weights=weights))
    return tuple(found)
