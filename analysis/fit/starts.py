"""Where to begin: many cheap guesses, each completed by linear algebra, then a few good and
different ones.

For given exponents, F and R*, the law is linear in E, A, B (and K), so a guess needs only the
non-linear parameters: the rest is a weighted least-squares solution (variable projection). Excess
parameters depend on A/B through N_opt; the solution is repeated until it agrees. Guesses come from
an additive low-discrepancy sequence over each parameter's start range. Nothing here decides which
minimum is best.
"""

from __future__ import annotations

import numpy as np

from analysis.data.points import Array
from analysis.fit.problem import Problem, huber

LINEAR = ("ln_A", "ln_B", "ln_E", "ln_K")


def sequence(count: int, dimensions: int, seed: int = 0) -> Array:
    """(count, dimensions) points in (0, 1): Roberts' additive recurrence, shifted by `seed`."""
    root = 2.0
    for _ in range(60):  # the generalised golden ratio: root^(d+1) = root + 1
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    powers = root ** -np.arange(1.0, dimensions + 1)
    shift = np.random.default_rng(seed).random(dimensions) if seed else np.full(dimensions, 0.5)
    guesses: Array = (shift + np.arange(1, count + 1)[:, None] * powers) % 1.0
    return guesses


def guesses(problem: Problem, count: int, seed: int = 0) -> Array:
    """(count, q) free parameters: the non-linear ones from the sequence, the linear ones solved
    for.
    """
    law = problem.law
    unit = sequence(count, len(problem.free) + 1, seed)
    free = np.empty((count, len(problem.free)))
    for column, parameter in enumerate(problem.parameters):
        low, high = parameter.start
        free[:, column] = low + (high - low) * unit[:, column]
    vectors = problem.full(free)
    columns = {name: law.names.index(name) for name in LINEAR if name in law.names}
    if "ln_A" not in problem.fixed and "ln_B" not in problem.fixed:
        _place_feedable(vectors, columns, problem, 6.0 * unit[:, -1] - 3.0)
    if law.coupled or law.bounded:
        _solve_inner(vectors, columns, problem, unit[:, -1])
    else:
        _solve(vectors, columns, problem)
    return np.clip(np.where(np.isfinite(vectors), vectors, 0.0)[:, problem.free], problem.low, problem.high)


def _solve(vectors: Array, columns: dict[str, int], problem: Problem) -> None:
    """Set the linear parameters in place."""
    law, points, count = problem.law, problem.points, len(vectors)
    loss = np.exp(problem.log_loss)
    solved = [name for name in columns if name not in problem.fixed]
    for _ in range(3 if law.saturation and law.saturation.excess else 1):
        terms = law.terms(vectors, points)
        rest = sum((terms[name] for name in terms if name not in solved), np.zeros((count, len(points))))
        scales = _positive_least_squares([terms[name] / loss for name in solved], 1.0 - rest / loss)
        for name, scale in zip(solved, scales, strict=True):
            vectors[:, columns[name]] += np.log(scale)


def _solve_inner(vectors: Array, columns: dict[str, int], problem: Problem, unit: Array) -> None:
    """Set E to a share of the least loss, and the other linear parameters so that the inner sum is
    what gives L: (L - E)^(1/c) of a coupled law, y / (1 - y) of a bounded one, y = (L - E) / G.
    """
    law, loss = problem.law, np.exp(problem.log_loss)
    if "ln_E" not in problem.fixed:
        vectors[:, columns["ln_E"]] = np.log(loss.min() * (0.1 + 0.88 * unit))
    floor = np.exp(vectors[:, columns["ln_E"], None])
    above = np.maximum(loss - floor, 1e-3 * loss)
    if law.coupled:
        target = above ** (1.0 / vectors[:, law.names.index("c"), None])
    else:
        share = np.minimum(above / np.exp(vectors[:, law.names.index("ln_G"), None]), 0.95)
        target = share / (1.0 - share)
    terms = law.terms(vectors, problem.points)
    inner = [name for name in columns if name != "ln_E"]
    solved = [name for name in inner if name not in problem.fixed]
    rest = sum((terms[name] for name in inner if name not in solved), np.zeros_like(target))
    scales = _positive_least_squares([terms[name] / target for name in solved], 1.0 - rest / target)
    for name, scale in zip(solved, scales, strict=True):
        vectors[:, columns[name]] += np.log(scale)


def _place_feedable(vectors: Array, columns: dict[str, int], problem: Problem, offset: Array) -> None:
    """Shift ln A so that N_opt(U) at the middle of the table is exp(offset) times the middle N."""
    law = problem.law
    feedable = law.log_feedable(vectors, problem.points).mean(axis=1)
    alpha = vectors[:, law.names.index("alpha")]
    vectors[:, columns["ln_A"]] += alpha * (offset + problem.points.log_active.mean() - feedable)


def _positive_least_squares(columns: list[Array], target: Array) -> list[Array]:
    """(b,) positive multipliers of the (b, n) columns that best sum to the target; negative ones
    are floored.
    """
    if not columns:
        return []
    design = np.stack(columns, axis=1)
    scale = np.sqrt(np.einsum("bkn,bkn->bk", design, design)) + 1e-300
    design = design / scale[..., None]
    matrix = np.matmul(design, design.transpose(0, 2, 1)) + 1e-10 * np.eye(len(columns))
    right = np.matmul(design, target[..., None])
    weights = np.linalg.solve(matrix, right)[..., 0] / scale
    typical = np.abs(target).mean(axis=1) / np.maximum(np.mean(np.stack(columns, axis=1), axis=2).T, 1e-300)
    return [np.maximum(weights[:, k], 1e-3 * typical[k]) for k in range(len(columns))]


def choose(problem: Problem, candidates: Array, keep: int, delta: float = 0.1) -> Array:
    """(keep, q) the best candidates that differ: at least a tenth of the start range apart in some
    parameter.
    """
    cost = huber(problem.residuals(candidates), delta).sum(axis=1)
    mean, precision = problem.prior_terms
    cost = cost + 0.5 * (precision * (candidates - mean) ** 2).sum(axis=1)
    order = np.argsort(np.where(np.isfinite(cost), cost, np.inf), kind="stable")
    width = np.array([parameter.start[1] - parameter.start[0] for parameter in problem.parameters])
    nonlinear = [i for i, parameter in enumerate(problem.parameters) if parameter.name not in LINEAR] or [0]
    scaled = (candidates / width)[order][:, nonlinear]
    chosen: list[int] = []
    apart = np.ones(len(order), dtype=bool)  # from all that were chosen
    while apart.any() and len(chosen) < keep:
        best = int(np.argmax(apart))
        chosen.append(int(order[best]))
        apart &= np.abs(scaled - scaled[best]).max(axis=1) > 0.1
    return candidates[chosen]
