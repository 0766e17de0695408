"""What a planner is: asked with what is known, it answers with trials to run, and that is all.

A planner runs nothing and remembers nothing: the same knowledge gives the same answer, so a sweep
that was killed asks again and goes on as if nothing had happened, and Ray and the inline executor
get the same trials. It is told of every trial of the sweep, of running and waiting ones too
(status "running", no loss), so that several slots are not given the same suggestion. An empty
answer means "nothing now"; with nothing running it ends the sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raysparse.record import Record
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, TrialSpec

RUNNING = "running"  # beside the statuses of results: begun, or waiting for a slot


@dataclass(frozen=True)
class Known:
    """A trial of the sweep as a planner sees it.

    loss: validation loss at its end, nats per token; None unless it completed. row: its whole
    row of the results table; None while it runs.
    """

    spec: TrialSpec
    status: str
    loss: float | None = None
    row: dict[str, Any] | None = None


@dataclass(frozen=True)
class Purse:
    """What may still be spent, in the unit of the sweep's budget: what running and waiting trials
    will take is out of `remaining` already. `price` is what a trial costs from its first step.
    """

    remaining: float
    price: Callable[[TrialSpec], float]

    def affords(self, spec: TrialSpec) -> bool:
        return self.price(spec) <= self.remaining


class Planner(Record):
    """A frozen record, so that plan.json holds it whole."""

    def data(self) -> Sequence[DataSpec]:
        """The largest data sets that its trials may ask for; their tokens are made beforehand."""
        raise NotImplementedError

    def question(self) -> tuple[str, ...]:
        """What it asks, as lines for a plan."""
        raise NotImplementedError

    def mirror(self, folder: RunFolder, known: Sequence[Known], purse: Purse) -> None:
        """Write what people may look at beside the rows; nothing is ever read back from it."""

    def links(self, folder: RunFolder) -> tuple[str, ...]:
        """Lines that tell where to look while the sweep runs."""
        return ()

    def ask(self, known: Sequence[Known], purse: Purse) -> Sequence[TrialSpec]:
        """Trials to run next, none of them in `known`; together they cost at most the purse.

        Raises ValueError when no trial of the planner's question fits even a full purse.
        """
        raise NotImplementedError
