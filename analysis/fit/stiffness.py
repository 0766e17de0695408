"""In which coordinates a step of the fit is short: exponents turned about the middle of the table.

ln A and alpha trade against each other, because rows lie far from N = 1: a small turn of the slope
needs a large move of the level. A trust region in these coordinates stops just the steps that a
flat valley needs. So moves are measured with each level taken at the middle of the rows (ln A -
alpha mean ln N, and so on), in units of the range that starts are drawn from. What a move costs is
the solver's business.
"""

from __future__ import annotations

import numpy as np

from analysis.data.points import Array
from analysis.fit.problem import Problem


def stiffness(problem: Problem) -> Array:
    """(q, q) S: a step s of the free parameters has length sqrt(s' S s) start ranges."""
    names = problem.law.names
    turn = np.eye(len(names))
    for level, slope, middle in _middles(problem):
        if level in names and slope in names:
            turn[names.index(level), names.index(slope)] = middle
    width = np.array([parameter.start[1] - parameter.start[0] for parameter in problem.parameters])
    scaled = turn[np.ix_(problem.free, problem.free)] / width[:, None]
    return np.asarray(scaled.T @ scaled)


def _middles(problem: Problem) -> list[tuple[str, str, float]]:
    """(level, slope, m): level + m slope is what the rows see of the level at their middle."""
    law, points = problem.law, problem.points
    size, unique = float(points.log_active.mean()), float(points.log_unique.mean())
    found = [
        ("ln_A", "alpha", -size),
        ("ln_B", "alpha" if law.tied else "beta", -float(points.log_tokens.mean())),
    ]
    if law.penalty == "crowded":
        return [*found, ("ln_K", "gamma", size), ("ln_K", "zeta", -unique)]
    again = points.epochs > 1
    if not again.any():
        return found
    repeated = points.take(again)
    ratio = float((repeated.log_active - repeated.log_unique).mean())
    return [*found, ("ln_K", "q", float(np.log(repeated.epochs - 1).mean())), ("ln_K", "r", ratio)]
