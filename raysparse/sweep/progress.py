"""What a person sees while a sweep runs: one quiet view, rewritten in place in a terminal, a line every 15 seconds elsewhere.

The decision that shaped this file: the view is made from a `Snapshot`, a small record that the broker's process takes and any
other process may draw, so the inline executor and the Ray fleet look the same. The time left is scaled from the plan: planned
seconds still to do, times how much longer than planned the work of this session took.

Left out: deciding anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raysparse.spec import TrialSpec
from raysparse.sweep.broker import Broker, Entry, State
from raysparse.sweep.budget import UNIT_NAMES
from raysparse.sweep.plan import Plan

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal
PACE_AFTER = 20.0  # seconds of training after which the measured pace replaces the planned one


@dataclass(frozen=True)
class Best:
    """The best validation loss (nats per token) among the finished trials of one size and unique-token budget."""

    size: str
    unique_tokens: int
    loss: float
    density: float
    epochs: float


@dataclass(frozen=True)
class Snapshot:
    """Where a running sweep stands. Costs are in the unit of the plan's budget; seconds are planned seconds of one slot."""

    statuses: dict[str, int]  # of the trials that ended in this session
    running: tuple[tuple[str, int, int, float | None], ...]  # name, step, steps, loss
    waiting: int
    unaffordable: int
    spent: float
    left_to_spend: float
    seconds_done: float
    seconds_left: float
    best: tuple[Best, ...]


def snapshot(broker: Broker) -> Snapshot:
    plan, entries = broker.plan, list(broker.entries.values())
    begun = {e.spec.trial_id for e in entries}
    running = [e for e in entries if e.state is State.RUNNING]
    ended = [e for e in entries if e.state is State.ENDED]
    waiting = [e.spec for e in entries if e.state is State.WAITING] + [s for s in broker.chosen if s.trial_id not in begun]
    left = [(e.spec, 1.0 - e.step / e.spec.steps) for e in running] + [(spec, 1.0) for spec in waiting]
    return Snapshot(
        statuses=dict(Counter(e.status for e in ended)),
        running=tuple((e.spec.name or e.spec.trial_id, e.step, e.spec.steps, _loss(e)) for e in running),
        waiting=len(waiting),
        unaffordable=sum(e.state is State.UNAFFORDABLE for e in entries),
        spent=broker.ledger.spent,
        left_to_spend=sum(plan.price(spec) * share for spec, share in left),
        seconds_done=sum(_planned(plan, e.spec) * (e.step - e.first_step) / e.spec.steps for e in [*running, *ended]),
        seconds_left=sum(_planned(plan, spec) * share for spec, share in left),
        best=best_losses((e.spec, e.loss) for e in ended),
    )


def _planned(plan: Plan, spec: TrialSpec) -> float:
    return plan.throughput.seconds(spec)


def _loss(entry: Entry) -> float | None:
    return entry.reports[-1].get("loss") if entry.reports else None


def best_losses(finished: Iterable[tuple[TrialSpec, float | None]]) -> tuple[Best, ...]:
    """The best of (spec, loss) pairs for each size and unique-token budget; a loss of None takes no part."""
    found: dict[tuple[str, int], Best] = {}
    for spec, loss in finished:
        key = (spec.model.name, spec.data.unique_tokens)
        if loss is not None and (key not in found or loss < found[key].loss):
            found[key] = Best(*key, loss, spec.sparsity.density, spec.data.epochs)
    return tuple(found.values())


def duration(seconds: float) -> str:
    """3725 -> "1h 02m"; 65 -> "1m 05s"; 9 -> "9s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def amount(value: float) -> str:
    return f"{value:.2e}".replace("e+", "e")


class Display:
    """Shows snapshots. A context manager, so that the terminal is left as it was found.

    `before` are the (spec, validation loss) pairs that earlier sessions finished; `total` counts the trials of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        before: Sequence[tuple[TrialSpec, float | None]] = (),
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.plan, self.before = plan, list(before)
        self.console = console or Console()
        self._clock = clock
        self._began = self._printed = clock()
        self._pace: tuple[float, float] | None = None  # when training was first seen, and the planned seconds done by then
        self._live = Live(console=self.console, refresh_per_second=2, transient=True) if self.console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, now: Snapshot) -> None:
        if self._live:
            self._live.update(self._view(now))
        elif self._clock() - self._printed >= PLAIN_EVERY:
            self._printed = self._clock()
            self.console.print(self._line(now), highlight=False, soft_wrap=True)

    def _line(self, now: Snapshot) -> str:
        done = len(self.before) + sum(now.statuses.values())
        bad = "".join(f", {n} {status.replace('_', ' ')}" for status, n in now.statuses.items() if status != "completed")
        unaffordable = f", {now.unaffordable} beyond the budget" if now.unaffordable else ""
        unit = UNIT_NAMES[self.plan.budget.unit]
        return (
            f"{duration(self._clock() - self._began):>7}  {done}/{len(self.plan.specs)} done{bad}{unaffordable}, "
            f"{len(now.running)} running, {now.waiting} pending; {amount(now.spent)} {unit} spent, "
            f"{amount(now.left_to_spend)} to go, {self._eta(now)}"
        )

    def _eta(self, now: Snapshot) -> str:
        """Planned seconds at the pace of this session, which is trusted after a while; start-up takes no part in it."""
        if now.running and self._pace is None:
            self._pace = self._clock(), now.seconds_done
        began, done_before = self._pace or (self._clock(), now.seconds_done)
        elapsed, done = self._clock() - began, now.seconds_done - done_before
        if elapsed < PACE_AFTER or done <= 0:
            return f"about {duration(now.seconds_left / max(1, len(now.running)))} (planned)"
        return f"about {duration(elapsed * now.seconds_left / done)}"

    def _view(self, now: Snapshot) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("running", "step", "loss"):
            table.add_column(column, justify="left" if column == "running" else "right", style="dim")
        for name, step, steps, loss in now.running:
            table.add_row(name, f"{step}/{steps}", "" if loss is None else f"{loss:.3f}")
        parts: list[RenderableType] = [Text(self._line(now)), table]
        merged = merge_best(best_losses(self.before), now.best)
        if merged:
            parts.append(Text("best validation loss so far", style="dim"))
            parts += [Text(f"  {b.size} U={b.unique_tokens:,}: {b.loss:.3f} (d={b.density:g}, x{b.epochs:g})") for b in merged]
        return Group(*parts)


def merge_best(*groups: Sequence[Best]) -> list[Best]:
    found: dict[tuple[str, int], Best] = {}
    for one in (b for group in groups for b in group):
        key = (one.size, one.unique_tokens)
        if key not in found or one.loss < found[key].loss:
            found[key] = one
    return [found[key] for key in sorted(found)]
