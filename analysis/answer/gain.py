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

from analysis.answer.gaussian import JITTER, Process
from analysis.data.points import Array

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


def gains(processes: Sequence[Process], candidates: Array, question: Question) -> Array:
    """(g, m) expected fall of the least mean of each group, from one run at each candidate (m, p).

    In units of the processes' values: nats near the best loss.
    """
    per_process = [_gains(process, candidates, question) for process in processes]
    return np.asarray(np.mean(per_process, axis=0))


def _gains(process: Process, candidates: Array, question: Question) -> Array:
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    weights = weights / weights.sum()
    mean, sd = process.predict(question.columns)
    found = []
    for group in np.unique(question.groups):
        members = np.flatnonzero(question.groups == group)
        members = members[np.argsort(mean[members] - sd[members], kind="stable")[:HOPEFUL]]
        now = mean[members].min()
        shared, spread = _shared(process, question.columns[members], candidates)
        slope = shared / np.sqrt(spread + process.noise**2)  # (t, m): by how much a target moves
        later = np.stack([(mean[members][:, None] + node * slope).min(axis=0) for node in nodes])
        found.append(np.maximum(now - weights @ later, 0.0))
    return np.array(found)


def _shared(process: Process, targets: Array, candidates: Array) -> tuple[Array, Array]:
    """(t, m) posterior covariance of targets and candidates, and the (m,) variance of these."""
    from scipy.linalg import solve_triangular

    left = solve_triangular(process.root, process.covariance(targets, process.inputs).T, lower=True)
    right = solve_triangular(process.root, process.covariance(candidates, process.inputs).T, lower=True)
    variance = np.maximum(process.variance(candidates) - (right**2).sum(axis=0), 0.0)
    return process.covariance(targets, candidates) - left.T @ right, variance


def believing(processes: Sequence[Process], columns: Array) -> tuple[Process, ...]:
    """The processes as if runs at `columns` (k, p) had ended as expected: what is running is not
    proposed again, and its teaching is counted.
    """
    if not len(columns):
        return tuple(processes)
    from scipy.linalg import cho_solve, cholesky

    found = []
    for process in processes:
        inputs = np.vstack([process.inputs, columns])
        values = np.concatenate([process.values, process.mean(columns)])
        prior = process.covariance(inputs, inputs)
        prior[np.diag_indices_from(prior)] += process.noise**2 + JITTER * prior.diagonal().max()
        root = np.asarray(cholesky(prior, lower=True))
        weights = np.asarray(cho_solve((root, True), values - process.centre))
        found.append(replace(process, inputs=inputs, values=values, root=root, weights=weights))
    return tuple(found)
