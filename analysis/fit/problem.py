"""What is minimised: sum_i w_i Huber_delta(ln L_hat_i - ln L_i), plus an optional Gaussian prior.

A `Problem` holds one law, one set of runs and the choice of free parameters; a batch of parameter
vectors (and a batch of row weights, for the bootstrap) is evaluated at once. The sum, not the mean,
is minimised: a mean stops optimizers too early. How it is minimised is `fit.solver`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analysis.data.points import Array, Points
from analysis.laws.law import Law
from analysis.laws.parameter import Parameter

DELTA = 1e-3  # the published Huber threshold, in log loss


@dataclass(frozen=True)
class Prior:
    """Gaussian knowledge of some parameters: mean and standard deviation by stored name.

    noise: the residual scale (log loss) that one unit of the prior is worth against. The Huber sum
    is near delta * |r|, a Laplace likelihood of scale `noise` times delta * noise; the prior is
    multiplied by the same.
    """

    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    noise: float = 0.006

    def __post_init__(self) -> None:
        if set(self.mean) != set(self.deviation):
            raise ValueError(
                f"prior means are given for {sorted(self.mean)} but deviations for "
                f"{sorted(self.deviation)}; give both for the same parameters"
            )
        for name, deviation in self.deviation.items():
            if not deviation > 0:
                raise ValueError(f"prior deviation of {name!r} is {deviation!r}; it must be positive")


@dataclass(frozen=True)
class Problem:
    """One fit. fixed: stored name -> value of parameters that do not move. delta: Huber threshold
    (log loss).

    Raises ValueError for a delta that is not positive, a fixed or prior parameter that the law
    does not have, and if nothing is left free.
    """

    law: Law
    points: Points
    log_loss: Array
    fixed: Mapping[str, float] = field(default_factory=dict)
    prior: Prior | None = None
    delta: float = DELTA

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"delta is {self.delta!r}; expected a Huber threshold of log loss above 0, such as 0.01")
        for given, what in ((self.fixed, "fixed"), (self.prior.mean if self.prior else {}, "prior")):
            unknown = sorted(set(given) - set(self.law.names))
            if unknown:
                raise ValueError(
                    f"{what} parameters {unknown} are not in law {self.law.name!r}, which has "
                    f"{', '.join(self.law.names)}"
                )
        if set(self.law.names) <= set(self.fixed):
            raise ValueError(f"every parameter of law {self.law.name!r} is fixed; leave at least one free")

    @cached_property
    def free(self) -> NDArray[np.int64]:
        """(q,) positions of the free parameters in the law's vector."""
        return np.array([i for i, name in enumerate(self.law.names) if name not in self.fixed], dtype=np.int64)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(self.law.parameters[i] for i in self.free)

    @cached_property
    def low(self) -> Array:
        return np.array([parameter.low for parameter in self.parameters])

    @cached_property
    def high(self) -> Array:
        return np.array([parameter.high for parameter in self.parameters])

    def full(self, free: Array) -> Array:
        """(b, p) parameter vectors from (b, q) free ones."""
        if not self.fixed:
            return free
        vectors = np.empty((len(free), len(self.law.names)))
        for column, name in enumerate(self.law.names):
            if name in self.fixed:
                vectors[:, column] = self.fixed[name]
        vectors[:, self.free] = free
        return vectors

    @cached_property
    def prior_terms(self) -> tuple[Array, Array]:
        """(q,) prior means and precisions on the objective's scale; precision 0 where there is no
        prior.
        """
        mean, precision = np.zeros(len(self.free)), np.zeros(len(self.free))
        if self.prior:
            for column, parameter in enumerate(self.parameters):
                if parameter.name in self.prior.mean:
                    mean[column] = self.prior.mean[parameter.name]
                    precision[column] = self.delta * self.prior.noise / self.prior.deviation[parameter.name] ** 2
        return mean, precision

    def residuals(self, free: Array) -> Array:
        """(b, n) ln L_hat - ln L."""
        return self.law.log_loss(self.full(free), self.points) - self.log_loss

    def residuals_and_jacobian(self, free: Array) -> tuple[Array, Array]:
        """(b, n) residuals and (b, q, n) derivatives by the free parameters."""
        predicted, jacobian = self.law.log_loss_and_jacobian(self.full(free), self.points)
        if len(self.free) < jacobian.shape[1]:
            jacobian = jacobian[:, self.free]
        return predicted - self.log_loss, jacobian

    def objective(self, free: Array, residuals: Array, delta: float, weights: Array | None = None) -> Array:
        """(b,) the objective, given the residuals at `free`."""
        terms = huber(residuals, delta)
        if weights is not None:
            terms = terms * weights
        mean, precision = self.prior_terms
        value: Array = terms.sum(axis=-1)
        if self.prior:
            value = value + 0.5 * (precision * (free - mean) ** 2).sum(axis=-1)
        return value


def huber(residuals: Array, delta: float) -> Array:
    """r^2 / 2 for |r| <= delta, delta (|r| - delta / 2) beyond."""
    clipped = np.minimum(np.maximum(residuals, -delta), delta)  # np.clip is slow for a few numbers
    return clipped * (residuals - 0.5 * clipped)
