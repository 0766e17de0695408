"""What a run costs: ln cost = constant + a ln N + b ln D + c ln d, for FLOPs by definition or
seconds by regression.

One log-linear form covers the three budgets people have: active FLOPs (6 N D), executed FLOPs (6 N
D / d where unstructured masks run as dense products) and measured seconds. It is chosen because it
can be solved for N, so that the optimum search never leaves the budget. Attention's own FLOPs are
not modelled; see docs/analysis.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.points import Array, Points
from analysis.data.table import Runs

SHRINK = 0.05  # ridge (in rows) that pulls the fitted powers towards those of executed FLOPs


@dataclass(frozen=True)
class Cost:
    """Cost of a run. size, tokens, density: powers of N, D and d. spread: residual sd of a
    regression, ln units.
    """

    name: str
    unit: str
    constant: float
    size: float = 1.0
    tokens: float = 1.0
    density: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not (self.size > 0 and self.tokens > 0):
            raise ValueError(
                f"cost {self.name!r} has powers {self.size!r} of N and {self.tokens!r} of D; both must be "
                f"positive, or a budget does not limit a run"
            )

    @property
    def words(self) -> str:
        """For axes and sentences: `active FLOP`, `s`."""
        return self.unit if self.unit == "s" else f"{self.name.removeprefix('flops_')} {self.unit}"

    def of(self, points: Points) -> Array:
        """Cost of each point, in `unit`."""
        return np.exp(
            self.constant
            + self.size * points.log_active
            + self.tokens * points.log_tokens
            + self.density * points.log_density
        )

    def log_active(self, log_cost: ArrayLike, log_tokens: Array, log_density: Array) -> Array:
        """ln N that spends the budget at the given tokens and density."""
        rest = np.asarray(log_cost) - self.constant - self.tokens * log_tokens - self.density * log_density
        return np.asarray(rest / self.size)

    def log_tokens(self, log_cost: ArrayLike, log_active: ArrayLike, log_density: Array) -> Array:
        """ln D that spends the budget at the given size and density."""
        rest = np.asarray(log_cost) - self.constant - self.size * np.asarray(log_active) - self.density * log_density
        return np.asarray(rest / self.tokens)


ACTIVE = Cost("active", "FLOP", float(np.log(6.0)))
EXECUTED = Cost("executed", "FLOP", float(np.log(6.0)), density=-1.0)
COSTS = {cost.name: cost for cost in (ACTIVE, EXECUTED)}


def measured_cost(runs: Runs, column: str = "seconds") -> Cost:
    """The cost model regressed on a measured column of the table (seconds, flops_executed,
    flops_active).

    Powers that the rows do not determine stay near those of executed FLOPs.
    Raises ValueError if fewer than three rows have the column.
    """
    values = runs.extras.get(column, np.full(len(runs), np.nan))
    usable = np.isfinite(values) & (values > 0)
    if usable.sum() < 3:
        raise ValueError(f"{int(usable.sum())} rows have a positive {column!r}; a cost model needs at least 3")
    points = runs.points.take(usable)
    features = np.stack([points.log_active, points.log_tokens, points.log_density], axis=1)
    prior = np.array([1.0, 1.0, 0.0 if column == "flops_active" else -1.0])
    target = np.log(values[usable]) - features @ prior
    centre, middle = features.mean(axis=0), target.mean()
    moved = features - centre
    shift = np.linalg.solve(moved.T @ moved + SHRINK * np.eye(3), moved.T @ (target - middle))
    powers = prior + shift
    constant = middle - float(centre @ shift)
    spread = float(np.std(target - middle - moved @ shift))
    unit = "s" if column == "seconds" else "FLOP"
    size, tokens, density = (float(power) for power in powers)
    return Cost(column, unit, float(constant), size, tokens, density, spread)
