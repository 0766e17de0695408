"""Profile intervals: how far one parameter can be pushed before the fit, with all others free, gets
clearly worse.

Unlike the bootstrap a profile sees flat valleys and other basins. The Huber sum is no likelihood,
so its increase is scaled as robust likelihood-ratio tests do: 2 (Q - Q_min) / (mean psi^2 / mean
psi') is compared with chi^2_1. An interval that reaches a bound without crossing is reported as
open: the table does not limit the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    free = [parameter.name for parameter in fit.problem.parameters]
    if name not in free:
        raise ValueError(f"{name!r} is not a free parameter of this fit; free ones are {', '.join(free)}")
    from scipy.special import ndtri

    threshold = float(ndtri(0.5 + 0.5 * level) ** 2)  # chi^2 with one degree of freedom
    parameter = fit.law.parameters[fit.law.names.index(name)]
    best = fit.stored[name]
    scale = _scale(fit)
    first = _first_step(fit, name, scale)
    sides = []
    for direction, bound in ((-1.0, parameter.low), (1.0, parameter.high)):
        steps = first * np.cumsum(GROWTH ** np.arange(STEPS))
        values = best + direction * steps[steps < abs(bound - best)]
        values = np.append(values, bound) if len(values) < STEPS and bound != best else values
        sides.append(_walk(fit, name, values, scale, 4 * threshold))
    (below, low), (above, high) = sides
    values = np.concatenate([below[::-1], [best], above])
    excess = np.concatenate([low[::-1], [0.0], high])
    return Profile(
        name,
        values,
        excess,
        threshold,
        -_crossing(np.append(-best, -below), np.append(0.0, low), threshold),
        _crossing(np.append(best, above), np.append(0.0, high), threshold),
    )


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


def _walk(fit: Fit, name: str, values: Array, scale: float, enough: float) -> tuple[Array, Array]:
    """Refit at each value in turn, starting from the last; stops when the excess is far above the
    threshold.
    """
    base = {**fit.fixed}
    column = fit.law.names.index(name)
    starts = np.stack([minimum.theta for minimum in fit.minima[:4]] or [fit.theta])
    seen, excess = [], []
    for value in values:
        problem = replace(fit.problem, fixed={**base, name: float(value)})
        if not len(problem.free):
            break
        starts[:, column] = value
        found = minimise(problem, starts[:, problem.free], fit.delta, steps=60, tolerance=1e-8)
        starts = problem.full(found.free)
        seen.append(value)
        excess.append(2.0 * (float(found.objective.min()) - fit.objective) / max(scale, 1e-300))
        if excess[-1] > enough:
            break
    return np.array(seen), np.array(excess)


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
