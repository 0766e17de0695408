"""Profile intervals: how far one parameter can be pushed before the fit, with all others free, gets
clearly worse.

Unlike the bootstrap a profile sees flat valleys and other basins. The Huber sum is no likelihood,
so its increase is scaled as robust likelihood-ratio tests do: 2 (Q - Q_min) / (mean psi^2 / mean
psi') is compared with chi^2_1. An interval that reaches a bound without crossing is reported as
open: the table does not limit the parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array
from analysis.fit.joint import Fit
from analysis.fit.solver import minimise

STEPS = 24  # positions on each side
GROWTH = 1.35  # each step is this much longer than the one before


@dataclass(frozen=True)
class Profile:
    """values: (m,) of the stored parameter, ascending. excess: (m,) scaled increase; the interval
    is where it is below `threshold`. low, high: limits, -inf or inf where open.
    """

    name: str
    values: Array
    excess: Array
    threshold: float
    low: float
    high: float

    @property
    def open(self) -> bool:
        """Whether the table fails to limit the parameter on some side."""
        return bool(np.isinf(self.low) or np.isinf(self.high))


def profile(fit: Fit, name: str, level: float = 0.95) -> Profile:
    """Profile one stored parameter (`alpha`, `ln_R_D`, ...) of a fit.

    Raises ValueError if the parameter is unknown, or was fixed in the fit.
    """
    return profile_all(fit, [name], level)[0]


def profile_all(fit: Fit, names: Sequence[str], level: float = 0.95) -> list[Profile]:
    """Profile several parameters, all their sides walking together. Raises as `profile`."""
    free = [parameter.name for parameter in fit.problem.parameters]
    for name in names:
        if name not in free:
            raise ValueError(f"{name!r} is not a free parameter of this fit; free ones are {', '.join(free)}")
    from scipy.special import ndtri

    threshold = float(ndtri(0.5 + 0.5 * level) ** 2)  # chi^2 with one degree of freedom
    scale = _scale(fit)
    sides = [(name, direction) for name in names for direction in (-1.0, 1.0)]
    walks = [_Walk(fit, free.index(name), _values(fit, name, direction, scale)) for name, direction in sides]
    _walk(fit, walks, scale, 4 * threshold)
    return [
        _profile(name, fit.stored[name], below, above, threshold)
        for name, below, above in zip(names, walks[::2], walks[1::2], strict=True)
    ]


def _profile(name: str, best: float, below: _Walk, above: _Walk, threshold: float) -> Profile:
    low, high = np.array(below.seen), np.array(above.seen)
    values = np.concatenate([low[::-1], [best], high])
    excess = np.concatenate([below.excess[::-1], [0.0], above.excess])
    return Profile(
        name,
        values,
        excess,
        threshold,
        -_crossing(np.append(-best, -low), np.append(0.0, below.excess), threshold),
        _crossing(np.append(best, high), np.append(0.0, above.excess), threshold),
    )


def _values(fit: Fit, name: str, direction: float, scale: float) -> Array:
    """Where to refit on one side: ever longer steps, up to the bound."""
    parameter = fit.law.parameters[fit.law.names.index(name)]
    best, bound = fit.stored[name], parameter.high if direction > 0 else parameter.low
    steps = _first_step(fit, name, scale) * np.cumsum(GROWTH ** np.arange(STEPS))
    values = best + direction * steps[steps < abs(bound - best)]
    return np.append(values, bound) if len(values) < STEPS and bound != best else values


def _scale(fit: Fit) -> float:
    """mean psi^2 / mean psi', with the residual degrees of freedom."""
    residuals, delta = fit.residuals, fit.delta
    inside = max(np.mean(np.abs(residuals) <= delta), 1.0 / len(residuals))
    degrees = max(1, len(residuals) - len(fit.problem.free))
    return float(np.sum(np.clip(residuals, -delta, delta) ** 2) / degrees / inside)


def _first_step(fit: Fit, name: str, scale: float) -> float:
    """A third of the parameter's own standard error, others held: always shorter than the profile's
    width.
    """
    column = [parameter.name for parameter in fit.problem.parameters].index(name)
    residuals, jacobian = fit.problem.residuals_and_jacobian(fit.theta[None, fit.problem.free])
    weight = np.minimum(1.0, fit.delta / np.maximum(np.abs(residuals[0]), 1e-300))
    curvature = float(np.sum(weight * jacobian[0, column] ** 2))
    parameter = fit.problem.parameters[column]
    widest = 0.02 * (parameter.start[1] - parameter.start[0])
    return min(np.sqrt(scale / curvature) / 3, widest) if curvature > 0 and scale > 0 else widest


class _Walk:
    """One side of one parameter: where it has been, and where it would go next."""

    def __init__(self, fit: Fit, column: int, values: Array):
        self.column, self.values = column, list(values)
        minima = [minimum.theta for minimum in fit.minima[:4]] or [fit.theta]
        self.at = np.stack(minima)[:, fit.problem.free]
        self.seen: list[float] = []
        self.excess: list[float] = []


def _walk(fit: Fit, walks: Sequence[_Walk], scale: float, enough: float) -> None:
    """Refit at each walk's values in turn, starting from the last; a walk ends when its excess is
    far above the threshold.
    """
    moving = [walk for walk in walks if walk.values]
    while moving:
        for walk in moving:
            walk.seen.append(walk.values.pop(0))
            walk.at[:, walk.column] = walk.seen[-1]
        at = np.concatenate([walk.at for walk in moving])
        hold = np.zeros(at.shape, dtype=bool)
        ends = np.cumsum([len(walk.at) for walk in moving])
        for walk, end in zip(moving, ends, strict=True):
            hold[end - len(walk.at) : end, walk.column] = True
        found = minimise(fit.problem, at, fit.delta, steps=60, tolerance=1e-8, hold=hold)
        for walk, end in zip(moving, ends, strict=True):
            own = slice(end - len(walk.at), end)
            walk.at = found.free[own]
            excess = float(found.objective[own].min()) - fit.objective
            walk.excess.append(2.0 * excess / max(scale, 1e-300))
        moving = [walk for walk in moving if walk.values and walk.excess[-1] <= enough]


def _crossing(values: Array, excess: Array, threshold: float) -> float:
    """The first value where the excess passes the threshold, linearly between positions; inf if it
    never does.
    """
    over = np.flatnonzero(excess > threshold)
    if not len(over):
        return float("inf")
    after = int(over[0])
    share = (threshold - excess[after - 1]) / (excess[after] - excess[after - 1])
    return float(values[after - 1] + share * (values[after] - values[after - 1]))
