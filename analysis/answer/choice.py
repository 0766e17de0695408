"""What the answer with settings says, as values: a run to train, measured runs, and the comparison.

Made by `settings.answer`; put into words by `show.best`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from analysis.answer.recommend import Interval
from analysis.data.points import Points


@dataclass(frozen=True)
class Choice:
    """A run to train. Intervals are 95 %: of `active`, `density`, `epochs` and `settings` for where
    the best such run lies; of `expected` for the mean over seeds of this run; of `loss` for what
    one training of it measures (nats per token). cost: what it costs.
    """

    active: Interval
    density: Interval
    epochs: Interval
    settings: Mapping[str, Interval]
    loss: Interval
    expected: Interval
    cost: float

    def point(self, unique: float) -> Points:
        """Its coordinates, (1,)."""
        return Points.at(self.active.value, self.density.value, unique, unique * self.epochs.value)


@dataclass(frozen=True)
class Measured:
    """A row of the table within the budget: measured and expected loss, nats per token."""

    row: str
    active: float
    density: float
    epochs: float
    settings: Mapping[str, float]
    loss: float
    expected: float
    cost: float


@dataclass(frozen=True)
class Refused:
    """A question without an answer, and why."""

    budget: float
    unique: float
    unit: str
    reason: str


@dataclass(frozen=True)
class BestRun:
    """The answer to (budget, U). best: the better of `sparse` and `dense`, each the best of its
    kind; None where the box has none. difference: expected loss of dense minus sparse, nats, at
    these two runs. rows: the best measured runs within the budget. unit: of budget and costs.
    """

    budget: float
    unique: float
    unit: str
    best: Choice
    dense: Choice | None
    sparse: Choice | None
    difference: Interval | None
    rows: tuple[Measured, ...]
    warnings: tuple[str, ...]

    @property
    def shown(self) -> bool:
        """Whether the table shows a difference between dense and sparse."""
        return self.difference is not None and not self.difference.low <= 0 <= self.difference.high
