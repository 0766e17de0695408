"""What a picture shows beside the rows: the run to train, and the best measured runs.

An answer of laws (`recommend`) and one with settings (`choice`) are told apart by how they were
found, not by how they are shown; both become the same few numbers here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.answer.choice import BestRun
from analysis.answer.recommend import Interval, Recommendation


@dataclass(frozen=True)
class Mark:
    """A run at one U (None: tokens are fresh). answer: whether it is advised, else measured. loss:
    nats per token, of the mean, where advised with its interval. cost: in the budgets' unit.
    """

    answer: bool
    unique: float | None
    active: float
    density: float
    epochs: float
    tokens: float
    loss: Interval
    cost: float


def marks_of(items: Sequence[Recommendation | BestRun]) -> tuple[Mark, ...]:
    """The answer of each item and the best measured rows within its budget."""
    return tuple(
        mark for item in items for mark in (_of_settings(item) if isinstance(item, BestRun) else _of_laws(item))
    )


def _of_laws(item: Recommendation) -> list[Mark]:
    if item.loss.value != item.loss.value:
        return []
    size, density, epochs = item.active.value, item.density.value, item.epochs.value
    found = [Mark(True, item.unique, size, density, epochs, item.tokens, item.loss, item.cost)]
    for row in item.rows:
        found.append(
            Mark(False, item.unique, row.active, row.density, row.epochs, row.tokens, _exactly(row.loss), row.cost)
        )
    return found


def _of_settings(item: BestRun) -> list[Mark]:
    best = item.best
    size, density, epochs = best.active.value, best.density.value, best.epochs.value
    found = [Mark(True, item.unique, size, density, epochs, epochs * item.unique, best.expected, best.cost)]
    for row in item.rows:
        tokens = row.epochs * item.unique
        found.append(
            Mark(False, item.unique, row.active, row.density, row.epochs, tokens, _exactly(row.loss), row.cost)
        )
    return found


def _exactly(value: float) -> Interval:
    return Interval(value, value, value)
