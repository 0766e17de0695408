"""How much the answer depends on the loss function: the same fit under other Huber thresholds and
least squares.

The published threshold 1e-3 is nearly L1 at real residuals (6e-3): its minima are kinked and many.
An answer that moves far between 1e-3, 1e-2 and least squares rests on a few rows, not on the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.fit.joint import Fit, fit

LEAST_SQUARES = 10.0  # no residual of a log loss is that large, so Huber is a parabola
DELTAS = (1e-3, 1e-2, LEAST_SQUARES)


def sensitivity(found: Fit, deltas: Sequence[float] = DELTAS) -> dict[float, Fit]:
    """The fit again at each threshold, started as freely as the first time and from its answer."""
    return {
        delta: fit(
            found.law, found.runs, fixed=found.fixed, prior=found.prior, delta=delta, warm=found.theta, seed=found.seed
        )
        for delta in deltas
    }
