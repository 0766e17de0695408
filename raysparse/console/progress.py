"""What a person sees while a sweep runs: one quiet view, rewritten in place in a terminal, a line
every 15 seconds elsewhere.

The view is made from a `Snapshot`, a small record that the broker's process takes and any other
process may draw, so the inline executor and the Ray fleet look the same. The time left is scaled
from the plan: planned seconds still to do, times how much longer than planned the work of this
session took.

Left out: deciding anything.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raysparse.console import terminal
from raysparse.spec import TrialSpec
from raysparse.sweep.budget import UNIT_NAMES
from raysparse.sweep.plan import Plan
from raysparse.sweep.snapshot import Snapshot, best_losses, merge_best
from raysparse.units import amount, duration

PLAIN_EVERY = 15.0  # seconds between lines where there is no terminal
PACE_AFTER = 20.0  # seconds of training after which the measured pace replaces the planned one


class Display:
    """Shows snapshots. A context manager, so that the terminal is left as it was found."""

    plan: Plan

    def __init__(self, *, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.before: list[tuple[TrialSpec, float | None]] = []
        self.console = console or terminal.console()
        self._clock = clock
        self._began = self._printed = clock()
        self._pace: tuple[float, float] | None = None  # when training was first seen, and what was done by then
        self._live = (
            Live(console=self.console, refresh_per_second=2, transient=True) if self.console.is_terminal else None
        )

    def begin(self, plan: Plan, before: Sequence[tuple[TrialSpec, float | None]]) -> None:
        self.plan, self.before = plan, list(before)

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[Callable[[str], None]]:
        with self.console.status(Text(what)) as status:
            yield lambda line: status.update(Text(f"{what}: {line}"))

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
        bad = "".join(
            f", {n} {status.replace('_', ' ')}" for status, n in now.statuses.items() if status != "completed"
        )
        unaffordable = f", {now.unaffordable} beyond the budget" if now.unaffordable else ""
        unit = UNIT_NAMES[self.plan.budget.unit]
        total = "" if self.is_open else f"/{len(self.plan.specs)}"
        return (
            f"{duration(self._clock() - self._began):>7}  {done}{total} done{bad}{unaffordable}, "
            f"{len(now.running)} running, {now.waiting} pending; {amount(now.spent)} {unit} spent, "
            f"{amount(self._to_go(now))} to go, {self._eta(now)}"
        )

    @property
    def is_open(self) -> bool:
        """Whether a planner will propose more trials: then the budget says how far it is."""
        return self.plan.planner is not None and self.plan.budget.total is not None

    def _to_go(self, now: Snapshot) -> float:
        return max(0.0, self.plan.budget.limit - now.spent) if self.is_open else now.left_to_spend

    def _eta(self, now: Snapshot) -> str:
        """What is to go at the pace of this session, which is trusted after a while; start-up takes
        no part in it. In planned seconds, or in the budget's unit where a planner spends it.
        """
        amount_done = now.spent if self.is_open else now.seconds_done
        if now.running and self._pace is None:
            self._pace = self._clock(), amount_done
        began, done_before = self._pace or (self._clock(), amount_done)
        elapsed, done = self._clock() - began, amount_done - done_before
        if elapsed < PACE_AFTER or done <= 0:
            return f"about {duration(now.seconds_left / max(1, len(now.running)))} (planned)"
        return f"about {duration(elapsed * (self._to_go(now) if self.is_open else now.seconds_left) / done)}"

    def _view(self, now: Snapshot) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("running", "step", "loss"):
            table.add_column(column, justify="left" if column == "running" else "right", style="dim")
        for one in now.running:
            loss = "" if one.loss is None else f"{one.loss:.3f}"
            table.add_row(one.name, f"{one.step}/{one.steps}", loss)
        parts: list[RenderableType] = [Text(self._line(now)), table]
        merged = merge_best(best_losses(self.before), now.best)
        if merged:
            parts.append(Text("best validation loss so far", style="dim"))
            parts += [
                Text(f"  {b.size} U={b.unique_tokens:,}: {b.loss:.3f} (d={b.density:g}, x{b.epochs:g})") for b in merged
            ]
        return Group(*parts)
