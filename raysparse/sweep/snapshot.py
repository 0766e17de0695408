"""Where a running sweep stands, as a small record, and what whoever draws it must be able to do.

The broker's process takes the record, any other process may draw it. A runner is handed a `View`
and never imports one: what people see is the console's business.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from raysparse.spec import TrialSpec
from raysparse.sweep.books import State
from raysparse.sweep.broker import Broker
from raysparse.sweep.lease import Report
from raysparse.sweep.plan import Plan


@dataclass(frozen=True)
class Best:
    """The best validation loss (nats per token) among the finished trials of one size and
    unique-token budget.
    """

    size: str
    unique_tokens: int
    loss: float
    density: float
    epochs: float


@dataclass(frozen=True)
class Running:
    """A trial that runs now. Losses are nats per token, of the last step that was reported and of
    the last evaluation; None before the first.
    """

    trial_id: str
    name: str
    size: str
    density: float
    step: int
    steps: int
    loss: float | None
    validation_loss: float | None
    tokens_per_second: float | None

    @property
    def share(self) -> float:
        """Of its steps that it has taken."""
        return self.step / self.steps


@dataclass(frozen=True)
class Snapshot:
    """Where a running sweep stands. Costs are in the unit of the plan's budget; seconds are planned
    seconds of one slot.
    """

    statuses: dict[str, int]  # of the trials that ended in this session
    running: tuple[Running, ...]
    waiting: int
    unaffordable: int
    at_work: int  # trials that were submitted and have not ended
    wanted: int  # of those that wait, as many as slots would be given now
    present: tuple[str, ...]  # slots that have workers
    spent: float
    left: float | None  # of the budget; None when there is no limit
    left_to_spend: float  # by the trials that are known already
    seconds_done: float
    seconds_left: float
    best: tuple[Best, ...]

    @property
    def counts(self) -> dict[str, int]:
        """The trials of this session by status: those that ended, and the others."""
        return {
            "running": len(self.running), "waiting": self.waiting, "unaffordable": self.unaffordable, **self.statuses
        }  # fmt: skip


def snapshot(broker: Broker) -> Snapshot:
    plan, entries = broker.plan, list(broker.entries.values())
    begun = {e.spec.trial_id for e in entries}
    running = [e for e in entries if e.state is State.RUNNING]
    ended = [e for e in entries if e.state is State.ENDED]
    waiting = [e.spec for e in entries if e.state is State.WAITING] + [
        s for s in broker.chosen if s.trial_id not in begun
    ]
    under_way = sum(plan.price(e.spec) * (e.step - e.first_step) / e.spec.steps for e in running)
    spent = broker.ledger.spent + under_way  # the ledger counts attempts that ended
    left = [(e.spec, 1.0 - e.step / e.spec.steps) for e in running] + [(spec, 1.0) for spec in waiting]
    return Snapshot(
        statuses=dict(Counter(e.status for e in ended)),
        running=tuple(running_of(e.spec, e.step, e.reports) for e in running),
        waiting=len(waiting),
        unaffordable=sum(e.state is State.UNAFFORDABLE for e in entries),
        at_work=sum(e.state in (State.RUNNING, State.WAITING) for e in entries),
        wanted=broker.wanted,
        present=broker.present,
        spent=spent,
        left=None if math.isinf(plan.budget.limit) else max(0.0, plan.budget.limit - spent),
        left_to_spend=sum(plan.price(spec) * share for spec, share in left),
        seconds_done=sum(plan.seconds(e.spec) * (e.step - e.first_step) / e.spec.steps for e in [*running, *ended]),
        seconds_left=sum(plan.seconds(spec) * share for spec, share in left),
        best=best_losses((e.spec, e.loss) for e in ended),
    )


def running_of(spec: TrialSpec, step: int, reports: Sequence[Report]) -> Running:
    """A trial after `step` steps, by what was reported of it, oldest first."""
    last = reports[-1] if reports else {}
    losses = (report.get("validation_loss") for report in reversed(reports))
    return Running(
        trial_id=spec.trial_id,
        name=spec.name or spec.trial_id,
        size=spec.model.name,
        density=spec.sparsity.density,
        step=step,
        steps=spec.steps,
        loss=last.get("loss"),
        validation_loss=next((loss for loss in losses if loss is not None), None),
        tokens_per_second=last.get("tokens_per_second"),
    )


def best_losses(finished: Iterable[tuple[TrialSpec, float | None]]) -> tuple[Best, ...]:
    """The best of (spec, loss) pairs for each size and unique-token budget; a loss of None takes no
    part.
    """
    found: dict[tuple[str, int], Best] = {}
    for spec, loss in finished:
        key = (spec.model.name, spec.data.unique_tokens)
        if loss is not None and (key not in found or loss < found[key].loss):
            found[key] = Best(*key, loss, spec.sparsity.density, spec.data.epochs)
    return tuple(found.values())


def merge_best(*groups: Sequence[Best]) -> list[Best]:
    found: dict[tuple[str, int], Best] = {}
    for one in (b for group in groups for b in group):
        key = (one.size, one.unique_tokens)
        if key not in found or one.loss < found[key].loss:
            found[key] = one
    return [found[key] for key in sorted(found)]


class View(Protocol):
    """Something that shows a sweep. Inside its `with` it shows snapshots, so that a terminal is
    left as it was found.
    """

    def begin(self, plan: Plan, before: Sequence[tuple[TrialSpec, float | None]]) -> None:
        """Told once: the plan, and the (spec, validation loss) pairs that earlier sessions
        finished.
        """

    def say(self, line: str) -> None:
        """A line that stays."""

    def busy(self, what: str) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        """Something that takes a while before trials run; what is given tells how far it is."""

    def show(self, now: Snapshot) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Unseen:
    """The view of nobody."""

    def begin(self, plan: Plan, before: Sequence[tuple[TrialSpec, float | None]]) -> None: ...

    def say(self, line: str) -> None: ...

    def busy(self, what: str) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        return contextlib.nullcontext(lambda line: None)

    def show(self, now: Snapshot) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
