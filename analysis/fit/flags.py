"""What is wrong with a fit although it converged: bounds, infinite saturation, parameters the table
does not limit.

A flag is a sentence with the parameter's name. None of them changes a number; they decide how a
number is shown.
"""

from __future__ import annotations

import numpy as np

from analysis.fit.intervals import Draws, percentiles
from analysis.fit.joint import Fit
from analysis.laws.parameter import Parameter

WIDE = np.log(100.0)  # an R* known only within this factor is called not identified
BLIND = 50.0  # R* above this many times the largest repetition or excess cannot be told from infinite
RIVAL = 0.01  # other minima this close (relative objective) are reported
MOVED = 0.5  # ... if a parameter differs there by this share of its start range


def fit_flags(fit: Fit, draws: Draws | None = None) -> tuple[str, ...]:
    """Flags of a fit, and of its bootstrap draws if given."""
    infinite = _infinite(fit)
    found = [*infinite.values(), *_rivals(fit)]
    low, high = percentiles(draws.theta) if draws is not None else (None, None)
    for index, parameter in enumerate(fit.law.parameters):
        if parameter.name in fit.fixed or parameter.name in infinite:
            continue  # a parameter is flagged once, by the strongest word
        value = fit.theta[index]
        if value <= parameter.low + 1e-9 or value >= parameter.high - 1e-9:
            found.append(f"{parameter.name} sits on its bound {value:.4g}")
        elif low is not None and high is not None:
            found += _identified(parameter, float(low[index]), float(high[index]))
    return tuple(found)


def _infinite(fit: Fit) -> dict[str, str]:
    """R* beyond what the table's repetition (or excess) can tell from no saturation at all, by
    parameter.
    """
    stored, points, found = fit.stored, fit.runs.points, {}
    reach = {"ln_R_D": float(points.epochs.max() - 1.0)}
    if "ln_R_N" in stored:
        excess = points.log_active - fit.law.log_feedable(fit.theta[None], points)[0]
        reach["ln_R_N"] = float(np.expm1(max(0.0, excess.max())))
    for name, most in reach.items():
        if name in stored and name not in fit.fixed and np.exp(stored[name]) > BLIND * max(most, 1e-9):
            found[name] = (
                f"{name.removeprefix('ln_')}* = {np.exp(stored[name]):.3g} is practically infinite: the "
                f"table reaches only {most:.3g}"
            )
    return found


def _identified(parameter: Parameter, low: float, high: float) -> list[str]:
    name = parameter.natural_name
    where = f"(95 % of draws: {parameter.natural(low):.3g} to {parameter.natural(high):.3g})"
    if parameter.name.startswith("ln_R_"):
        return [f"{name}* is not identified {where}"] if high - low > WIDE else []
    touches = low <= parameter.low + 1e-6 or high >= parameter.high - 1e-6
    return [f"{name} is not identified {where}"] if touches else []


def _rivals(fit: Fit) -> list[str]:
    """Near-equal minima elsewhere: the parameter values are then a choice of basin, not a
    measurement.
    """
    width = np.array([parameter.start[1] - parameter.start[0] for parameter in fit.law.parameters])
    for other in fit.minima[1:]:
        gap = other.objective / fit.objective - 1.0 if fit.objective > 0 else np.inf
        moved = np.abs(other.theta - fit.theta) / width
        if gap <= RIVAL and moved.max() > MOVED:
            names = [fit.law.names[i] for i in np.flatnonzero(moved > MOVED)]
            return [f"another minimum is only {100 * gap:.2g} % worse, with different {', '.join(names)}"]
    return []
