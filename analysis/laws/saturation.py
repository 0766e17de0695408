"""How much repeated tokens and excess parameters are still worth: X_eff = X (1 + R* (1 - exp(-R /
R*))).

R is the repetition (epochs beyond the first) or the excess (parameters beyond what U can feed); R*
is where its worth has fallen by 1/e. What a law may say about R* is chosen here: constant, or a
function of sparsity s = 1 - d, and optionally a power of U. The last is what lets the optimal
sparsity depend on U; the published form has no such term (see docs/analysis.md). R_N* is infinite
where parameters never saturate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.data.points import Array, Points
from analysis.laws.parameter import Parameter, Theta

REFERENCE_TOKENS = 1e9  # U at which a U-dependent R* equals its constant; a convention, not a fit
FLOOR = 1e-3  # R* = R0 * polynomial may go negative far from the data; it stops here instead

SHAPES: dict[str, tuple[str, str]] = {  # names of the sparsity terms for (tokens, parameters)
    "constant": ("", ""),
    "exponential": ("g1", "g2"),
    "curved": ("g1 h1", "g2 h2"),
    "quadratic": ("l1 s1", "l2 s2"),
}


@dataclass(frozen=True)
class Saturation:
    """shape: R* / R0 as a function of sparsity: 1, exp(g s), exp(g s + h s^2), or the published 1 +
    l s + s' s^2. The exponentials stay positive everywhere, which the published polynomial does
    not.

    unique: R* grows as (U / 1e9)^v. excess: excess parameters saturate too (else N_eff = N).
    """

    shape: Literal["constant", "exponential", "curved", "quadratic"] = "constant"
    unique: bool = False
    excess: bool = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        sides = [(0, "D", "repetitions", (-0.5, 4.5))]
        if self.excess:
            sides.append((1, "N", "excess parameters", (-0.5, 5.0)))
        constants, terms, powers = [], [], []
        for side, letter, of, start in sides:
            constants.append(Parameter(f"ln_R_{letter}", -5.0, 18.5, start, "1", f"R* of {of} when dense"))
            for name in SHAPES[self.shape][side].split():
                terms.append(Parameter(name, -12.0, 12.0, (-2.0, 2.0), "1", f"change of R* of {of} with sparsity"))
            if self.unique:
                powers.append(Parameter(f"v_{letter}", -3.0, 3.0, (-0.5, 0.5), "1", f"power of U in R* of {of}"))
        return (*constants, *terms, *powers)

    @property
    def levels(self) -> int:
        """Sparse density levels needed."""
        return {"constant": 0, "exponential": 1, "curved": 2, "quadratic": 2}[self.shape]

    def log_scale(self, side: Literal["D", "N"], theta: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
        """ln R* of one side and its derivatives by name; they broadcast to (starts, n)."""
        value = theta[f"ln_R_{side}"]
        gradient = {f"ln_R_{side}": np.ones(1)}
        sparsity = points.sparsity
        names = SHAPES[self.shape][side == "N"].split()
        if self.shape in ("exponential", "curved"):
            for power, name in enumerate(names, start=1):
                value = value + theta[name] * sparsity**power
                gradient[name] = sparsity**power
        elif self.shape == "quadratic":
            linear, square = names
            polynomial = 1.0 + sparsity * (theta[linear] + theta[square] * sparsity)
            safe = np.maximum(polynomial, FLOOR)
            value = value + np.log(safe)
            alive = (polynomial > FLOOR) / safe
            gradient[linear], gradient[square] = alive * sparsity, alive * sparsity**2
        if self.unique:
            relative = points.log_unique - np.log(REFERENCE_TOKENS)
            value = value + theta[f"v_{side}"] * relative
            gradient[f"v_{side}"] = relative
        return value, gradient


def saturate(excess: Array, log_scale: Array) -> tuple[Array, Array]:
    """S = R* (1 - exp(-R / R*)) and R / R*; any R >= 0, exact for R* -> infinity."""
    scale = np.exp(log_scale)
    ratio = excess / scale
    return -scale * np.expm1(-ratio), ratio


def by_scale(excess: Array, value: Array, faded: Array) -> Array:
    """d ln (1 + S) / d ln R*, given R, S and exp(-R / R*)."""
    return np.asarray((value - excess * faded) / (1.0 + value))
