"""Batched minimiser for Huber problems: Newton, re-weighting and a trust region in one step.

The Huber sum with a small delta is nearly L1. Iteratively re-weighted least squares always
descends, but slowly; Newton with only the rows inside delta is fast, but only near the end. And
many laws have flat, curved valleys, where a long step misses the floor and a short one along the
same direction creeps. One step answers all three: (J C J' + min(mu, 1) J W J' + mu v S) step =
-gradient, C = rows inside delta, W = min(1, delta/|r|), S measures moves in start ranges
(`stiffness`), v is the rows' mean square; mu falls after success and rises after failure
(Levenberg-Marquardt), so that along a flat valley the step is bounded, and across it it is not. A
valley that bends is followed: half the acceleration of the residuals along the step, solved for by
the same matrix, is added to it (geodesic acceleration; Transtrum and Sethna, arXiv 1201.5885). It
takes one evaluation more a step and less than half of the steps in the long valleys. All starts
(or all bootstrap draws) of a chunk advance together, and leave it when they have ended. It finds
one local minimum per start; choosing starts is `fit.starts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from analysis.data.points import Array
from analysis.fit.problem import Problem
from analysis.fit.stiffness import stiffness

CHUNK = 400_000  # numbers in one Jacobian chunk: about 3 MB, so that a chunk stays in the caches
STIFF = 20.0  # at damping 1 a move by a start range costs this many rows' mean objective
FALL, RISE = 0.2, 3.0  # of the damping, after a step that was better and one that was not
AHEAD = 0.1  # of the step: where the residuals are looked at again for their acceleration
BEND = 0.375  # the correction's length over the step's, in start ranges, above which it is not believed
RIDGE = 1e-13  # relative to a unit diagonal: only so that a parameter without influence does not stop the rest


@dataclass
class _Model:
    """What is known where b starts stand. residuals: (b, n). jacobian: (b, q, n). inside, pull:
    (b, n) the weights C and W of the rows. gradient: (b, q).
    """

    residuals: Array
    jacobian: Array
    inside: Array
    pull: Array
    gradient: Array

    def take(self, rows: Array) -> _Model:
        return _Model(*(getattr(self, part.name)[rows] for part in fields(self)))

    def put(self, better: Array, other: _Model) -> None:
        """Overwrite the rows that are `better` (b,) by those of another."""
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            np.copyto(mine, theirs, where=better.reshape(-1, *(1,) * (mine.ndim - 1)))


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
    """The state of one chunk: damping, row weights, positions, objectives and the local model of
    the starts still moving, whose numbers are `moving`; and where those that have ended did so.
    """

    def __init__(self, problem: Problem, starts: Array, delta: float, weights: Array | None, hold: Array | None):
        self.problem, self.delta = problem, delta
        self.stiff = STIFF / len(problem.points) * stiffness(problem)
        self.hold = np.zeros(starts.shape, dtype=bool) if hold is None else hold
        self.weights = None if weights is None else np.broadcast_to(weights, (len(starts), weights.shape[-1]))
        self.moving = np.arange(len(starts))
        self.damping = np.ones(len(starts))
        self.idle = np.zeros(len(starts), dtype=int)
        self.position = _between(starts, problem.low, problem.high)
        self.objective, self.model = self._look(self.position)
        self.ended = Solution(
            np.empty(starts.shape), np.empty(len(starts)), np.empty(len(starts), int), np.empty(len(starts), bool)
        )

    def run(self, steps: int, tolerance: float) -> Solution:
        taken = 0
        while taken < steps and len(self.moving):
            done = self._step(tolerance)
            taken += 1
            if done.any():
                self._leave(done, taken)
        self._leave(np.ones(len(self.moving), dtype=bool), taken, converged=False)
        return self.ended

    def _look(self, position: Array) -> tuple[Array, _Model]:
        """(b,) objective of those that move, and their local model."""
        problem, delta = self.problem, self.delta
        residuals, jacobian = problem.residuals_and_jacobian(position)
        objective = problem.objective(position, residuals, delta, self.weights)
        objective[~np.isfinite(objective)] = np.inf
        size = np.abs(residuals)
        inside = (size <= delta).astype(float)
        slope, pull = _between(residuals, -delta, delta), delta / np.maximum(size, delta)
        if self.weights is not None:
            inside, slope, pull = inside * self.weights, slope * self.weights, pull * self.weights
        gradient = np.matmul(jacobian, slope[..., None])[..., 0]
        if problem.prior:
            mean, precision = problem.prior_terms
            gradient += precision * (position - mean)
        return objective, _Model(residuals, jacobian, inside, pull, gradient)

    def _step(self, tolerance: float) -> Array:
        """Move all; (b,) which of them have ended."""
        trial = _between(self.position + self._direction(), self.problem.low, self.problem.high)
        objective, model = self._look(trial)
        gain = self.objective - objective
        better = gain > 0
        small = np.abs(gain) <= tolerance * np.abs(self.objective) + 1e-300
        np.copyto(self.position, trial, where=better[:, None])
        np.copyto(self.objective, objective, where=better)
        self.model.put(better, model)
        self.idle = np.where(better & ~small, 0, self.idle + small)
        self.damping = np.where(better, np.maximum(self.damping * FALL, 1e-9), self.damping * RISE)
        return np.asarray((self.idle >= 3) | (self.damping > 1e12))

    def _leave(self, done: Array, taken: int, converged: bool = True) -> None:
        """Note where those that are done have ended, and forget what else is known of them."""
        gone, left = self.moving[done], ~done
        self.ended.free[gone], self.ended.objective[gone] = self.position[done], self.objective[done]
        self.ended.steps[gone], self.ended.converged[gone] = taken, converged
        self.moving, self.idle, self.damping = self.moving[left], self.idle[left], self.damping[left]
        self.position, self.objective = self.position[left], self.objective[left]
        self.hold, self.model = self.hold[left], self.model.take(left)
        self.weights = None if self.weights is None else self.weights[left]

    def _direction(self) -> Array:
        """(b, q) the damped step and half its acceleration; parameters pushed against a bound are
        held there.
        """
        problem, model, position = self.problem, self.model, self.position
        held = self.hold | ((position <= problem.low) & (model.gradient > 0))
        held |= (position >= problem.high) & (model.gradient < 0)
        share = np.minimum(self.damping, 1.0)[:, None]
        rows = model.inside + share * model.pull
        solve = self._solver(rows, share, held)
        step = solve(-model.gradient)
        turn = solve(-0.5 * self._pull_of_bend(step, rows))
        length, more = ((move @ self.stiff * move).sum(axis=1) for move in (step, turn))
        return np.asarray(step + np.where((more <= BEND**2 * length)[:, None], turn, 0.0))

    def _pull_of_bend(self, step: Array, rows: Array) -> Array:
        """(b, q) J' of the weighed second derivatives of the residuals along the step; 0 where the
        way leaves the bounds.
        """
        problem, model = self.problem, self.model
        wanted = self.position + AHEAD * step
        ahead = _between(wanted, problem.low, problem.high)
        straight = np.matmul(step[:, None], model.jacobian)[:, 0]
        bent = 2 / AHEAD * ((problem.residuals(ahead) - model.residuals) / AHEAD - straight)
        pull = np.matmul(model.jacobian, (rows * bent)[..., None])[..., 0]
        free = (ahead == wanted).all(axis=1) & np.isfinite(pull).all(axis=1)
        return np.where(free[:, None], pull, 0.0)

    def _solver(self, rows: Array, share: Array, held: Array) -> Callable[[Array], Array]:
        """What solves the step's matrix for (b, q) right sides; 0 where `held`."""
        jacobian, objective = self.model.jacobian, self.objective
        matrix = np.matmul(jacobian * rows[:, None], jacobian.transpose(0, 2, 1))
        matrix += np.where(np.isfinite(objective), self.damping * objective, 0.0)[:, None, None] * self.stiff
        diagonal = matrix.reshape(len(matrix), -1)[:, :: held.shape[1] + 1]  # a view
        if self.problem.prior:
            diagonal += (1.0 + share) * self.problem.prior_terms[1]
        scale = np.sqrt(np.maximum(diagonal, 1e-300))
        matrix /= scale[:, :, None] * scale[:, None]
        if held.any():
            matrix[held[:, :, None] | held[:, None]] = 0.0
        diagonal += np.where(held, 1.0, RIDGE)

        def solve(right: Array) -> Array:
            known = np.where(held, 0.0, right / scale)[..., None]
            return np.asarray(np.linalg.solve(matrix, known)[..., 0] / scale)

        return solve


def _between(values: Array, low: Array | float, high: Array | float) -> Array:
    """`np.clip`, which takes five times as long for a few numbers."""
    return np.minimum(np.maximum(values, low), high)
