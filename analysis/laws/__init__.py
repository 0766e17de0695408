"""Scaling laws: `Law` (a choice of parts), `LAWS` (the named ones), `named`, and the published
parameters.

Imports nothing above it; every law answers `predict(theta, points)` and gives its analytic
gradient.
"""

from analysis.laws.law import Law
from analysis.laws.named import LAWS, PUBLISHED, named, published_vector
from analysis.laws.parameter import Parameter
from analysis.laws.saturation import Saturation

__all__ = ["LAWS", "PUBLISHED", "Law", "Parameter", "Saturation", "named", "published_vector"]
