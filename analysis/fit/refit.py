"""The same law fitted again to other weights of the same rows, or to fewer rows, many times over.

Bootstrap draws and cross-validation need hundreds of fits, none of which may stop early or stay in
the basin of the full table: either makes a law look surer than it is. So every refit starts from
the full table's minima *and* from guesses that never saw them, a few steps sort the starts out, and
the best go on until they converge. What did not converge in `STEPS` is counted and reported, never
left out in silence.
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
SCREEN = 15  # steps after which the starts of a refit are compared
KEPT = 3  # starts that go on from there
STEPS = 600  # until a refit counts as not converged
TOLERANCE = 1e-7  # relative improvement of the objective that counts as none


def starting_points(fit: Fit, fresh: int = FRESH) -> Array:
    """(k, q) free parameters to refit from: the fit's minima, then guesses that differ."""
    problem = fit.problem
    known = np.stack([minimum.theta for minimum in fit.minima[:MINIMA]] or [fit.theta])[:, problem.free]
    if not fresh:
        return known
    return np.concatenate([known, choose(problem, guesses(problem, GUESSES, fit.seed), fresh, CONTINUATION[0])])


def refit(problem: Problem, starts: Array, weights: Array) -> Solution:
    """The best minimum found for each of (b, n) row weights, from every one of `starts` (k, q).

    `converged` says for each of the b whether its best descent ended by itself.
    """
    draws, each = len(weights), len(starts)
    kept = min(KEPT, each)
    first = minimise(
        problem, np.tile(starts, (draws, 1)), problem.delta, np.repeat(weights, each, axis=0), SCREEN, TOLERANCE
    )
    order = np.argsort(first.objective.reshape(draws, each), axis=1, kind="stable")[:, :kept]
    chosen = (order + each * np.arange(draws)[:, None]).ravel()
    last = minimise(problem, first.free[chosen], problem.delta, np.repeat(weights, kept, axis=0), STEPS, TOLERANCE)
    best = last.objective.reshape(draws, kept).argmin(axis=1) + kept * np.arange(draws)
    return Solution(last.free[best], last.objective[best], last.steps[best], last.converged[best])
