"""What well-set runs reach: the sparse law, fitted to a handful of runs of all kinds of settings.

It is the prior mean of the model of settings (`surrogate`). A dozen rows do not identify a law, so
its parameters have priors: wide ones, around what published fits agree on. Settings are left to a
bowl that is fitted beside it, a parabola along each whose middle moves with the coordinates, so
that the law speaks of runs at their best settings. The bowl is then thrown away, since the process
that stands on the law fits a better one, and adds what the law misses: a law that is wrong costs
rows, not the answer. Left out: how sure the parameters are; the process's own mean has to tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.answer.axes import Frame
from analysis.data.points import Array, Points
from analysis.laws import named

LAW = named("sparse_small_untied")
# Medians, and sds of the logarithm. Terms are shares of the best loss, at the middle of the rows.
FLOOR, TERM = (0.55, 0.4), (0.2, 0.8)
EXPONENT = (0.33, 0.35)
FADES = (6.0, 0.7)  # R*, of tokens and of parameters
DEPTH = (0.05, 1.0)  # of a bowl half a range from its middle, as a share of the best loss
# Means and sds.
SLOPE = (-0.2, 0.4)  # k: of ln F in sparsity
MIDDLE, MOVES = 0.5, 0.4  # sds of a bowl's middle, and of its moves, in half-ranges of the setting
UNSURE = 0.012  # of the best loss: sd of a row about law and bowl
LOWEST = 0.9  # of the width: so far below the law a loss counts
MOST = 300  # rows that are looked at
EVALUATIONS = 60


@dataclass(frozen=True)
class Baseline:
    """theta: (p,) parameters of `LAW`; frame: the columns it is asked in."""

    frame: Frame
    theta: Array

    def __call__(self, coordinates: Array) -> Array:
        """(...,) loss of a well-set run at columns (..., k) of the coordinates, nats."""
        flat = coordinates.reshape(-1, coordinates.shape[-1])
        return np.asarray(LAW.predict(self.theta, self.frame.points(flat)).reshape(coordinates.shape[:-1]))


def fit_baseline(frame: Frame, points: Points, settings: Array, loss: Array, width: float) -> Baseline:
    """The most probable law of n runs. settings: (n, m) columns of the frame. width: nats above
    the law from which a loss counts as its logarithm.
    """
    from scipy.optimize import least_squares

    some = np.unique(np.linspace(0, len(loss) - 1, min(MOST, len(loss))).astype(int))
    fit = _Fit(frame, points.take(some), settings[some], loss[some], width)
    found = least_squares(fit, np.zeros(fit.size), max_nfev=EVALUATIONS)
    return Baseline(frame, fit.theta(found.x))


class _Fit:
    """Residuals in sds, of the rows and of the priors, at a vector of standard normal numbers: one
    for each parameter of the law, then for each bowl its depth, its middle and k moves.
    """

    def __init__(self, frame: Frame, points: Points, settings: Array, loss: Array, width: float):
        self.points, self.settings, self.loss, self.width = points, settings, loss, width
        self.columns = np.column_stack([np.ones(len(loss)), frame.coordinates(points)])
        self.best = float(loss.min())
        self.middle = frame.points(np.zeros((1, len(frame.kept))))
        self.size = len(LAW.names) + settings.shape[1] * (1 + self.columns.shape[1])

    def theta(self, at: Array) -> Array:
        """(p,) parameters of the law."""
        drawn = dict(zip(LAW.names, at, strict=False))

        def logarithm(name: str, prior: tuple[float, float]) -> float:
            return float(np.log(prior[0]) + prior[1] * drawn[name])

        best = np.log(self.best)
        found = {name: float(np.exp(logarithm(name, EXPONENT))) for name in ("alpha", "beta")}
        found |= {name: logarithm(name, FADES) for name in ("ln_R_D", "ln_R_N")}
        found |= {"k": SLOPE[0] + SLOPE[1] * drawn["k"], "ln_E": best + logarithm("ln_E", FLOOR)}
        # Terms of one nat, at the middle, say by how much theirs have to differ.
        terms = LAW.terms(LAW.vector(found | {"ln_A": 0.0, "ln_B": 0.0})[None], self.middle)
        found |= {name: best + logarithm(name, TERM) - float(np.log(terms[name][0, 0])) for name in ("ln_A", "ln_B")}
        return LAW.vector(found)

    def bowls(self, at: Array) -> Array:
        """(n,) what the settings cost, nats."""
        total = np.zeros(len(self.loss))
        scale = np.append(MIDDLE, np.full(self.columns.shape[1] - 1, MOVES))
        for column, own in zip(self.settings.T, at.reshape(self.settings.shape[1], 1 + len(scale)), strict=True):
            depth = DEPTH[0] * self.best * np.exp(DEPTH[1] * own[0])
            total += depth * (column - self.columns @ (scale * own[1:])) ** 2
        return total

    def __call__(self, at: Array) -> Array:
        above = (self.loss - LAW.predict(self.theta(at), self.points)) / self.width
        seen = np.log1p(np.maximum(above, -LOWEST))
        gap = self.width * (seen - np.log1p(self.bowls(at[len(LAW.names) :]) / self.width))
        far = np.hypot(1.0, np.maximum(seen, 0.0))  # the farther above, the less it says of the law
        return np.concatenate([gap / far / (UNSURE * self.best), at])
