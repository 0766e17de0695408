"""The same law fitted again to other weights of the same rows, or to fewer rows, many times over.

Bootstrap draws and cross-validation need hundreds of fits, none of which may stop early or stay in
the basin of the full table: either makes a law look surer than it is. So every refit starts from
the full table's minima *and* from guesses that never saw them, a few steps sort the starts out
twice, and the best go on until they converge: until nothing changes by more than a small share of a
standard error (a relative excess of 1 / rows is about one). What did not converge in `STEPS` is
counted and reported, never left out in silence.
"""

from __future__ import annotations

import numpy as np

from analysis.data.points import Array
from analysis.fit.joint import CONTINUATION, Fit
from analysis.fit.problem import Problem
from analysis.fit.solver import Solution, minimise
from analysis.fit.starts import choose, guesses

MINIMA = 3  # of the full fit's near-optimal minima, how many a refit starts from
FRESH = 9  # guesses that a refit starts from as well
GUESSES = 512  # of which those are chosen
SCREEN = ((6, 6), (9, 3))  # (steps, starts of a refit that go on after them)
STEPS = 600  # until a refit counts as not converged
TOLERANCE = 1e-6  # relative improvement of the objective that counts as none


def starting_points(fit: Fit, fresh: int = FRESH) -> Array:
    """(k, q) free parameters to refit from: the fit's minima, then guesses that differ."""
    problem = fit.problem
    known = np.stack([minimum.theta for minimum in fit.minima[:MINIMA]] or [fit.theta])[:, problem.free]
    if not fresh:
        return known
    return np.concatenate([known, choose(problem, guesses(problem, GUESSES, fit.seed), fresh, CONTINUATION[0])])


def refit(problem: Problem, starts: Array, weights: Array, steps: int = STEPS) -> Solution:
    """The best minimum found for each of (b, n) row weights, from every one of `starts` (k, q).

    `converged` says for each of the b whether its best descent ended by itself.
    """
    draws = len(weights)
    at = np.tile(starts, (draws, 1))
    for few, kept in SCREEN:
        found = minimise(problem, at, problem.delta, _each(weights, at), few, TOLERANCE)
        at = found.free[_best(found, draws, kept)]
    found = minimise(problem, at, problem.delta, _each(weights, at), steps, TOLERANCE)
    best = _best(found, draws, 1)
    return Solution(found.free[best], found.objective[best], found.steps[best], found.converged[best])


def _each(weights: Array, at: Array) -> Array:
    """Each draw's weights, once for each of its starts."""
    return np.repeat(weights, len(at) // len(weights), axis=0)


def _best(found: Solution, draws: int, kept: int) -> Array:
    """(draws * kept,) positions of each draw's best descents, its starts standing together."""
    objective = found.objective.reshape(draws, -1)
    order = np.argsort(objective, axis=1, kind="stable")[:, :kept]
    return np.asarray((order + objective.shape[1] * np.arange(draws)[:, None]).ravel())
