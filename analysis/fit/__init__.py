"""Fitting: `fit` (joint), `Fit`, `Prior`."""

from analysis.fit.joint import Fit, Minimum, fit
from analysis.fit.problem import Prior

__all__ = ["Fit", "Minimum", "Prior", "fit"]
