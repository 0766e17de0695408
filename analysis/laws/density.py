"""F(d): how much worse or better an active parameter is when it sits in a matrix of density d.

The law's capacity term is A * F(d) / N_eff^alpha with F(1) = 1. The published factor is kept
exactly, including its weakness: several (eps, mu, P) give the same curve. The others are written so
that their parameters are identified: ln F is linear in them. Each factor returns ln F and its
derivatives; none knows the rest of the law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from analysis.data.points import Array, Points
from analysis.laws.parameter import Parameter, Theta


class DensityFactor(Protocol):
    """ln F and its gradient, for batched parameters.

    levels: how many sparse density levels a table must have to identify the factor.
    """

    @property
    def parameters(self) -> tuple[Parameter, ...]: ...
    @property
    def levels(self) -> int: ...
    @property
    def formula(self) -> str: ...
    def log_factor(self, theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        """ln F and, by parameter name, d ln F / d parameter, which broadcast to (starts, n)."""
        ...


@dataclass(frozen=True)
class NoFactor:
    """F = 1: density does not matter beyond the count of active parameters."""

    parameters: tuple[Parameter, ...] = ()
    levels: int = 0
    formula: str = "1"

    def log_factor(self, theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        return np.zeros((1, 1)), {}


@dataclass(frozen=True)
class PublishedFactor:
    """F = d^eps + P (1 - d)^mu (arXiv 2606.01155).

    On dense rows the second term is 0 whatever mu is, so F(1) = 1 exactly. At mu = 1, (eps 0, P)
    and (eps 1, P + 1) are the same curve: read F(d), not the three numbers.
    """

    parameters: tuple[Parameter, ...] = (
        Parameter("eps", -3.0, 6.0, (-0.2, 1.0), "1", "exponent of density in F"),
        Parameter("mu", 0.01, 12.0, (0.2, 3.0), "1", "exponent of sparsity in F"),
        Parameter("P", -3.0, 20.0, (-0.8, 0.8), "1", "weight of the sparsity term in F"),
    )
    levels: int = 3
    formula: str = "d^eps + P (1-d)^mu"

    def log_factor(self, theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        sparsity = points.sparsity
        log_sparsity = np.log(np.where(sparsity > 0, sparsity, 1.0))
        kept = np.exp(theta["eps"] * points.log_density)
        removed = np.where(sparsity > 0, np.exp(theta["mu"] * log_sparsity), 0.0)
        factor = kept + theta["P"] * removed
        safe = np.maximum(factor, 1e-3)  # a start may make F negative; it then loses, it does not crash
        alive = (factor > 1e-3) / safe
        return np.log(safe), {
            "eps": alive * kept * points.log_density,
            "mu": alive * theta["P"] * removed * log_sparsity,
            "P": alive * removed,
        }


@dataclass(frozen=True)
class ExponentialFactor:
    """F = exp(k s), s = 1 - d: one parameter, one basin. Negative k: sparse capacity is worth
    more.
    """

    parameters: tuple[Parameter, ...] = (Parameter("k", -8.0, 8.0, (-1.0, 1.0), "1", "slope of ln F in sparsity"),)
    levels: int = 1
    formula: str = "exp(k (1-d))"

    def log_factor(self, theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        sparsity = points.sparsity
        return theta["k"] * sparsity, {"k": sparsity}


@dataclass(frozen=True)
class QuadraticFactor:
    """F = exp(k s + m s^2), s = 1 - d: as flexible as the published factor where data lie, and
    identified.
    """

    parameters: tuple[Parameter, ...] = (
        *ExponentialFactor().parameters,
        Parameter("m", -12.0, 12.0, (-1.0, 1.0), "1", "curvature of ln F in sparsity"),
    )
    levels: int = 2
    formula: str = "exp(k (1-d) + m (1-d)^2)"

    def log_factor(self, theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        sparsity = points.sparsity
        value = sparsity * (theta["k"] + theta["m"] * sparsity)
        return value, {"k": sparsity, "m": sparsity**2}
