"""One law family: L = E + A F(d) / N_eff^alpha + B / D_eff^beta (+ penalty), as a choice of parts.

Chinchilla, the data-constrained law, the published sparse law and our extensions differ only in
their density factor, their saturation, whether alpha = beta, how the terms add up to a loss, and
whether over-fitting is charged. So there is one `Law`, one evaluation and one analytic gradient,
batched over parameter vectors, and the named laws (`laws.named`) are choices. Predictions are
logarithms inside, because the fit compares logarithms. Fitting is not done here.

Letters: b parameter vectors, p parameters, n points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array, Points
from analysis.laws.density import DensityFactor, NoFactor
from analysis.laws.parameter import Parameter, Theta
from analysis.laws.saturation import Saturation, by_scale, saturate

LN_E = Parameter("ln_E", -12.0, 4.0, (-1.0, 1.2), "ln nats/token", "irreducible loss")
LN_A = Parameter("ln_A", -10.0, 60.0, (0.0, 15.0), "ln nats", "size of the parameter term")
LN_B = Parameter("ln_B", -10.0, 60.0, (0.0, 18.0), "ln nats", "size of the data term")
ALPHA = Parameter("alpha", 0.01, 3.0, (0.1, 1.0), "1", "exponent of effective parameters")
BETA = Parameter("beta", 0.01, 3.0, (0.1, 1.0), "1", "exponent of effective tokens")
COUPLING = Parameter("c", 0.1, 6.0, (0.4, 1.6), "1", "power of the sum of parameter and data term")
_LN_K = Parameter("ln_K", -40.0, 10.0, (-12.0, -1.0), "ln nats", "size of the over-fitting penalty")
_Q = Parameter("q", 0.2, 5.0, (0.5, 2.0), "1", "power of repetitions in the penalty")
_R = Parameter("r", -1.0, 3.0, (-0.2, 1.0), "1", "power of N / U in the penalty")
_CROWD = (
    Parameter("ln_K", -60.0, 40.0, (-12.0, 6.0), "ln 1", "size of the over-fitting term"),
    Parameter("gamma", 0.0, 3.0, (0.1, 1.2), "1", "power of N in the over-fitting term"),
    Parameter("zeta", 0.0, 3.0, (0.1, 1.2), "1", "power of 1 / U in the over-fitting term"),
)
GAP = Parameter("ln_G", 0.0, 3.5, (0.7, 2.7), "ln nats", "loss of a model that learnt nothing, above E")
PENALTIES: dict[str, tuple[Parameter, ...]] = {
    "none": (),
    "linear": (_LN_K, _R),
    "power": (_LN_K, _Q, _R),
    "crowded": _CROWD,
}


@dataclass(frozen=True)
class Law:
    """A law by its parts; `laws.named.LAWS` holds the ones with names.

    name, about: for people. factor: F(d). saturation: R*; None means that repetition and excess do
    not matter (Chinchilla). tied: alpha = beta. penalty: adds K R_D^q (N/U)^r, R_D = max(D/U - 1,
    0), which can make loss rise with epochs, as the published form cannot; "linear" holds q at 1,
    for tables with few epoch counts; "crowded" adds K N^gamma / U^zeta to the terms themselves.
    coupled: the sum of the terms is raised to a power c, so that a lack of parameters and of data
    need not add. bounded: a sum h of the terms costs G h / (1 + h), so that no model is worse than
    E + G (arXiv 2605.09189, with "crowded").
    """

    name: str
    about: str
    factor: DensityFactor = field(default_factory=NoFactor)
    saturation: Saturation | None = None
    tied: bool = True
    penalty: Literal["none", "linear", "power", "crowded"] = "none"
    coupled: bool = False
    bounded: bool = False

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        exponents = (ALPHA,) if self.tied else (ALPHA, BETA)
        exponents = (*exponents, COUPLING) if self.coupled else exponents
        exponents = (*exponents, GAP) if self.bounded else exponents
        repeated = self.saturation.parameters if self.saturation else ()
        return (LN_A, LN_B, LN_E, *exponents, *self.factor.parameters, *repeated, *PENALTIES[self.penalty])

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def formula(self) -> str:
        capacity = "A" if isinstance(self.factor, NoFactor) else f"A ({self.factor.formula})"
        n, d = ("N_eff", "D_eff") if self.saturation else ("N", "D")
        if self.saturation and not self.saturation.excess:
            n = "N"
        tail = {"linear": " + K R_D (N/U)^r", "power": " + K R_D^q (N/U)^r"}.get(self.penalty, "")
        body = f"{capacity} / {n}^alpha + B / {d}^{'alpha' if self.tied else 'beta'}"
        body += " + K N^gamma / U^zeta" if self.penalty == "crowded" else ""
        if self.bounded:
            return f"L = E + G h / (1 + h){tail}, h = {body}"
        return f"L = E + {f'({body})^c' if self.coupled else body}{tail}"

    @property
    def repeats(self) -> bool:
        """Whether the law tells fresh tokens from repeated ones."""
        return self.saturation is not None or self.penalty != "none"

    @property
    def grows(self) -> bool:
        """Whether the loss never rises with size, all else equal: only a penalty can make it."""
        return self.penalty == "none"

    def vector(self, values: Mapping[str, float]) -> Array:
        """(p,) parameters from a dictionary of stored names. Raises ValueError for a missing or
        unknown one.
        """
        if set(values) != set(self.names):
            missing, extra = sorted(set(self.names) - set(values)), sorted(set(values) - set(self.names))
            raise ValueError(
                f"law {self.name!r} has parameters {', '.join(self.names)}; missing: "
                f"{', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}"
            )
        return np.array([values[name] for name in self.names], dtype=float)

    def predict(self, theta: ArrayLike, points: Points) -> Array:
        """Loss in nats per token: (n,) for theta (p,), (b, n) for theta (b, p)."""
        vectors = np.asarray(theta, dtype=float)
        loss = np.exp(self.log_loss(np.atleast_2d(vectors), points))
        return loss[0] if vectors.ndim == 1 else loss

    def log_loss(self, theta: Array, points: Points) -> Array:
        """(b, n) ln L for theta (b, p)."""
        return self._evaluate(theta, points, gradient=False)[0]

    def log_loss_and_jacobian(self, theta: Array, points: Points) -> tuple[Array, Array]:
        """(b, n) ln L and (b, p, n) d ln L / d theta for theta (b, p)."""
        return self._evaluate(theta, points, gradient=True)

    def terms(self, theta: Array, points: Points) -> dict[str, Array]:
        """The (b, n) summands of L (of a coupled or bounded law: those of its inner sum, and E),
        under the name of the parameter each is proportional to: ln_A, ln_B, ln_E, ...
        """
        split = self._split(theta)
        alpha = split["alpha"]
        beta = alpha if self.tied else split["beta"]
        log_factor, _ = self.factor.log_factor(split, points)
        size, data = self._effective(split, beta, log_factor, points, gradient=False)
        terms = {
            "ln_A": np.exp(split["ln_A"] + log_factor - alpha * size.log_value),
            "ln_B": np.exp(split["ln_B"] - beta * data.log_value),
            "ln_E": np.exp(split["ln_E"]),
        }
        if self.penalty != "none":
            terms["ln_K"] = self._charge(split, points)[0]
        shape = (len(theta), points.shape[-1])
        return {name: np.broadcast_to(term, shape) for name, term in terms.items()}

    def log_factor(self, theta: Array, density: ArrayLike) -> Array:
        """(b, n) ln F at n densities."""
        densities = np.asarray(density, dtype=float)
        points = Points(np.ones_like(densities), densities, np.ones_like(densities), np.ones_like(densities))
        log_factor: Array = self.factor.log_factor(self._split(theta), points)[0]
        return log_factor

    def effective_tokens(self, theta: Array, points: Points) -> Array:
        """(b, n) D_eff: what the trained tokens are worth in fresh ones."""
        split = self._split(theta)
        log_factor, _ = self.factor.log_factor(split, points)
        beta = split["alpha" if self.tied else "beta"]
        data = self._effective(split, beta, log_factor, points, gradient=False)[1]
        tokens: Array = np.exp(np.broadcast_to(data.log_value, (len(theta), points.shape[-1])))
        return tokens

    def log_feedable(self, theta: Array, points: Points) -> Array:
        """(b, n) ln of N_opt, the parameters that one epoch over U can feed (compute-optimal for
        U).
        """
        split = self._split(theta)
        return self._log_feedable(
            split, split["alpha" if self.tied else "beta"], self.factor.log_factor(split, points)[0], points
        )

    def _split(self, theta: Array) -> dict[str, Array]:
        return {name: theta[:, column, None] for column, name in enumerate(self.names)}

    @staticmethod
    def _log_feedable(split: Theta, beta: Array, log_factor: Array, points: Points) -> Array:
        # D_opt(C) = U solved for C and put into N_opt(C); for alpha = beta this is U (A F /
        # B)^(1/alpha).
        alpha = split["alpha"]
        level = split["ln_A"] if beta is alpha else np.log(alpha / beta) + split["ln_A"]
        feedable: Array = (level + log_factor - split["ln_B"] + beta * points.log_used) / alpha
        return feedable

    def _evaluate(self, theta: Array, points: Points, gradient: bool) -> tuple[Array, Array]:
        split = self._split(theta)
        alpha = split["alpha"]
        beta = alpha if self.tied else split["beta"]
        log_factor, factor_gradient = self.factor.log_factor(split, points)
        size, data = self._effective(split, beta, log_factor, points, gradient)
        capacity = np.exp(split["ln_A"] + log_factor - alpha * size.log_value)
        tokens = np.exp(split["ln_B"] - beta * data.log_value)
        floor = np.exp(split["ln_E"])
        charge, charge_gradient = self._charge(split, points)
        crowded = self.penalty == "crowded"
        inner = capacity + tokens + charge if crowded else capacity + tokens
        reducible, slope, own = self._reducible(split, inner)
        total = floor + reducible if crowded else floor + reducible + charge
        log_loss = np.log(total)
        if not gradient:
            return log_loss, np.empty((0, 0, 0))
        # Shares of the loss: every derivative of ln L is a share times the derivative of a
        # logarithm.
        share_n, share_d = slope * capacity / total, slope * tokens / total
        moved = share_n * size.to_feedable  # how much of the parameter term moves with N_opt
        rows: dict[str, Array] = {"ln_E": floor / total, "ln_A": share_n - moved, "ln_B": share_d + moved}
        alpha_row = -share_n * size.log_value - moved * (1.0 / alpha - size.log_feedable)
        beta_row = -share_d * data.log_value - moved * (points.log_used - 1.0 / beta)
        rows |= {"alpha": alpha_row + beta_row} if self.tied else {"alpha": alpha_row, "beta": beta_row}
        rows |= {name: moved_by / total for name, moved_by in own.items()}
        rows |= {name: rows["ln_A"] * change for name, change in factor_gradient.items()}
        for name, change in size.scale_gradient.items():
            rows[name] = -alpha * share_n * size.to_scale * change
        for name, change in data.scale_gradient.items():
            rows[name] = -beta * share_d * data.to_scale * change
        share_k = charge / total * (slope if crowded else 1.0)
        rows |= {name: share_k * change for name, change in charge_gradient.items() if name in split}
        jacobian = np.empty((len(theta), len(self.names), len(points)))
        for column, name in enumerate(self.names):
            jacobian[:, column] = rows[name]
        return log_loss, jacobian

    def _reducible(self, split: Theta, inner: Array) -> tuple[Array, Array | float, dict[str, Array]]:
        """What the sum of the terms costs, nats; its derivative by the sum, and by parameters of
        its own.
        """
        if self.coupled:
            value = inner ** split["c"]
            return value, split["c"] * value / inner, {"c": value * np.log(inner)}
        if self.bounded:
            value = np.exp(split["ln_G"]) * inner / (1.0 + inner)
            return value, value / inner / (1.0 + inner), {"ln_G": value}
        return inner, 1.0, {}

    def _charge(self, split: Theta, points: Points) -> tuple[Array | float, dict[str, Array]]:
        """What over-fitting costs (of a crowded law: adds to the sum), and the derivatives of its
        logarithm.
        """
        if self.penalty == "none":
            return 0.0, {}
        return _crowding(split, points) if self.penalty == "crowded" else _penalty(split, points)

    def _effective(
        self, split: Theta, beta: Array, log_factor: Array, points: Points, gradient: bool
    ) -> tuple[_Effective, _Effective]:
        """N_eff and D_eff, with what the gradient needs where it is wanted."""
        if self.saturation is None:
            return _Effective(points.log_active), _Effective(points.log_tokens)
        log_scale, slopes = self.saturation.log_scale("D", split, points)
        value, ratio = saturate(points.repetition, log_scale)
        to_scale = by_scale(points.repetition, value, np.exp(-ratio)) if gradient else 0.0
        data = _Effective(points.log_used + np.log1p(value), to_scale, slopes)
        if not self.saturation.excess:
            return _Effective(points.log_active), data
        feedable = self._log_feedable(split, beta, log_factor, points)
        base = np.minimum(points.log_active, feedable)
        excess = np.expm1(np.minimum(points.log_active - base, 300.0))
        log_scale, slopes = self.saturation.log_scale("N", split, points)
        value, ratio = saturate(excess, log_scale)
        log_size = base + np.log1p(value)
        if not gradient:
            return _Effective(log_size), data
        faded = np.exp(-ratio)
        to_feedable = np.where(excess > 0, 1.0 - faded * (1.0 + excess) / (1.0 + value), 0.0)
        return _Effective(log_size, by_scale(excess, value, faded), slopes, to_feedable, feedable), data


@dataclass(frozen=True)
class _Effective:
    """ln of an effective count; its derivatives by ln R* and by ln N_opt; the derivatives of ln
    R*.
    """

    log_value: Array
    to_scale: Array | float = 0.0
    scale_gradient: Mapping[str, Array] = field(default_factory=dict)
    to_feedable: Array | float = 0.0
    log_feedable: Array | float = 0.0


def _crowding(split: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
    """K N^gamma / U^zeta and the derivatives of its logarithm."""
    exponent = split["ln_K"] + split["gamma"] * points.log_active - split["zeta"] * points.log_unique
    size = np.exp(np.minimum(exponent, 50.0))
    return size, {"ln_K": np.ones(1), "gamma": points.log_active, "zeta": -points.log_unique}


def _penalty(split: Theta, points: Points) -> tuple[Array, dict[str, Array]]:
    """K R_D^q (N/U)^r and the derivatives of its logarithm; q is 1 where it is not a parameter."""
    again, log_again, log_ratio = points.again, points.log_again, points.log_active - points.log_unique
    size = np.exp(np.minimum(split["ln_K"] + split.get("q", 1.0) * log_again + split["r"] * log_ratio, 50.0))
    return np.where(again, size, 0.0), {"ln_K": np.ones(1), "q": log_again, "r": log_ratio}
