"""Batched minimiser for Huber problems: Newton, re-weighting and a trust region in one step.

The Huber sum with a small delta is nearly L1. Iteratively re-weighted least squares always
descends, but slowly; Newton with only the rows inside delta is fast, but only near the end. And
many laws have flat, curved valleys, where a long step misses the floor and a short one along the
same direction creeps. One step answers all three: (J C J' + min(mu, 1) J W J' + mu v S) step =
-gradient, C = rows inside delta, W = min(1, delta/|r|), S measures moves in start ranges
(`stiffness`), v is the rows' mean square; mu falls after success and rises after failure
(Levenberg-Marquardt), so that along a flat valley the step is bounded, and across it it is not. All
starts (or all bootstrap draws) of a chunk advance together, and leave it when they have ended. It
finds one local minimum per start; choosing starts is `fit.starts`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array
from analysis.fit.problem import Problem
from analysis.fit.stiffness import stiffness

CHUNK = 400_000  # numbers in one Jacobian chunk: about 3 MB, so that a chunk stays in the caches
STIFF = 20.0  # at damping 1 a move by a start range costs this many rows' mean objective
FALL, RISE = 0.2, 3.0  # of the damping, after a step that was better and one that was not
RIDGE = 1e-13  # relative to a unit diagonal: only so that a parameter without influence does not stop the rest


@dataclass(frozen=True)
class Solution:
    """(b, q) minimisers, (b,) objectives, (b,) steps taken, (b,) whether the step size vanished in
    time.
    """

    free: Array
    objective: Array
    steps: Array
    converged: Array


def minimise(
    problem: Problem,
    starts: Array,
    delta: float,
    weights: Array | None = None,
    steps: int = 200,
    tolerance: float = 1e-12,
    hold: Array | None = None,
) -> Solution:
    """Minimise from each row of `starts` (b, q), with row weights (b, n) or (n,), or none. hold:
    (b, q) which parameters of which start do not move.

    A start is done when three accepted steps in a row improve it by less than `tolerance` relative,
    or when no step improves it. Everything is deterministic.
    """
    per_chunk = max(1, CHUNK // max(1, starts.shape[1] * len(problem.points)))
    pieces = []
    for begin in range(0, len(starts), per_chunk):
        part = slice(begin, begin + per_chunk)
        chosen = weights[part] if weights is not None and weights.ndim == 2 else weights
        fixed = None if hold is None else hold[part]
        pieces.append(_Batch(problem, starts[part], delta, chosen, fixed).run(steps, tolerance))
    return Solution(
        *(
            np.concatenate([getattr(piece, name) for piece in pieces])
            for name in ("free", "objective", "steps", "converged")
        )
    )


class _Batch:
    """The state of one chunk: positions, objectives, damping, and the local model of those still
    moving.
    """

    def __init__(self, problem: Problem, starts: Array, delta: float, weights: Array | None, hold: Array | None):
        self.problem, self.delta = problem, delta
        self.hold = np.zeros(starts.shape, dtype=bool) if hold is None else hold
        self.position = np.clip(starts, problem.low, problem.high)
        self.weights = None if weights is None else np.broadcast_to(weights, (len(starts), weights.shape[-1]))
        self.moving = np.arange(len(starts))
        self.damping = np.ones(len(starts))
        self.stiff = STIFF / len(problem.points) * stiffness(problem)
        self.idle = np.zeros(len(starts), dtype=int)
        self.taken = np.zeros(len(starts), dtype=int)
        self.objective, self.gradient, self.newton, self.metric = self._model(self.position, self.weights)

    def run(self, steps: int, tolerance: float) -> Solution:
        for _ in range(steps):
            if not len(self.moving):
                break
            self._step(tolerance)
        converged = np.ones(len(self.position), dtype=bool)
        converged[self.moving] = False
        return Solution(self.position, self.objective, self.taken, converged)

    def _model(self, position: Array, weights: Array | None) -> tuple[Array, Array, Array, Array]:
        """(b,) objective, (b, q) gradient, (b, q, q) Newton matrix and (b, q, q) re-weighted
        metric.
        """
        problem, delta = self.problem, self.delta
        residuals, jacobian = problem.residuals_and_jacobian(position)
        objective = problem.objective(position, residuals, delta, weights)
        size = np.abs(residuals)
        inside = (size <= delta).astype(float)
        slope, metric_weight = np.clip(residuals, -delta, delta), delta / np.maximum(size, delta)
        if weights is not None:
            inside, slope, metric_weight = inside * weights, slope * weights, metric_weight * weights
        mean, precision = problem.prior_terms
        gradient = np.matmul(jacobian, slope[..., None])[..., 0] + precision * (position - mean)
        transposed = jacobian.transpose(0, 2, 1)
        diagonal = np.eye(len(precision)) * precision
        newton = np.matmul(jacobian * inside[:, None, :], transposed) + diagonal
        metric = np.matmul(jacobian * metric_weight[:, None, :], transposed) + diagonal
        bad = ~np.isfinite(objective)
        objective[bad] = np.inf
        return objective, gradient, newton, metric

    def _step(self, tolerance: float) -> None:
        moving = self.moving
        here = self.position[moving]
        trial = np.clip(here + self._direction(moving), self.problem.low, self.problem.high)
        weights = None if self.weights is None else self.weights[moving]
        objective, gradient, newton, metric = self._model(trial, weights)
        gain = self.objective[moving] - objective
        better = gain > 0
        won = moving[better]
        self.position[won], self.objective[won] = trial[better], objective[better]
        self.gradient[won], self.newton[won], self.metric[won] = gradient[better], newton[better], metric[better]
        self.taken[moving] += 1
        small = np.abs(gain) <= tolerance * np.abs(self.objective[moving]) + 1e-300
        self.idle[moving] = np.where(better & ~small, 0, self.idle[moving] + small)
        damping = self.damping[moving]
        self.damping[moving] = np.where(better, np.maximum(damping * FALL, 1e-9), damping * RISE)
        done = (self.idle[moving] >= 3) | (self.damping[moving] > 1e12)
        self.moving = moving[~done]

    def _direction(self, moving: Array) -> Array:
        """(b, q) the damped step; parameters pushed against a bound are held there."""
        problem, position, gradient = self.problem, self.position[moving], self.gradient[moving]
        held = ((position <= problem.low) & (gradient > 0)) | ((position >= problem.high) & (gradient < 0))
        held |= self.hold[moving]
        damping, objective = self.damping[moving, None, None], self.objective[moving, None, None]
        bound = np.where(np.isfinite(objective), damping * objective, 0.0) * self.stiff
        matrix = self.newton[moving] + np.minimum(damping, 1.0) * self.metric[moving] + bound
        scale = np.sqrt(np.maximum(np.einsum("bii->bi", matrix), 1e-300))
        matrix = matrix / scale[:, :, None] / scale[:, None, :]
        matrix = np.where(held[:, :, None] | held[:, None, :], 0.0, matrix)
        matrix[:, np.arange(held.shape[1]), np.arange(held.shape[1])] += np.where(held, 1.0, RIDGE)
        right = np.where(held, 0.0, -gradient / scale)
        step: Array = np.linalg.solve(matrix, right[..., None])[..., 0] / scale
        return step
