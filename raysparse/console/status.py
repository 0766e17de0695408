"""A run folder as text for people: what is done and what is not, how fast it goes and until when,
what runs and when it was heard of, what was spent, and what the folder takes on the disk.

The numbers come from the folder alone (`sweep/overview`), so this is the same on the machine of the
sweep and on any other that reaches the storage. Left out: the live view (`progress`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table

from raysparse.results import FINAL, Results
from raysparse.run_folder import TRIALS, RunFolder
from raysparse.sweep.budget import UNIT_NAMES
from raysparse.sweep.overview import Begun, Overview, overview
from raysparse.sweep.snapshot import best_losses
from raysparse.units import amount, count, duration, si

SHOWN = 32  # trials that run; more are counted
LIVELY = 120.0  # seconds without a word after which a driver may be gone


def status_table(folder: RunFolder, clock: Callable[[], float] = time.time) -> RenderableType:
    """Where a run folder stands. Raises ValueError when it is none."""
    now = overview(folder, clock)
    end = _end(folder, now)
    statuses = Counter(row["status"] for row in now.rows.values())
    said = ", ".join(f"{status.replace('_', ' ')} {n}" for status, n in sorted(statuses.items()))
    planned = len(now.plan.specs)
    mine = [(spec, now.rows[spec.trial_id]) for spec in now.plan.specs if spec.trial_id in now.rows]
    best = best_losses((spec, row["validation_loss"] if row["status"] == "completed" else None) for spec, row in mine)
    return Group(
        f"{folder.uri}: {now.finished} of {planned} trials finished, {now.begun} begun, "
        f"{planned - now.finished - now.begun} not begun",
        f"  {said or 'no rows yet'}",
        f"  {_spent(now)}",
        *([f"  {end}"] if end else [*_pace(now), *_life(now)]),
        *_running(now.running),
        *(f"  best at {b.size} U={b.unique_tokens:,}: {b.loss:.3f} (d={b.density:g}, x{b.epochs:g})" for b in best),
        *(f"  {row['name']}: {row['status']}, {row['reason']}" for _, row in mine if row["status"] not in FINAL),
    )


def _spent(now: Overview) -> str:
    plan = now.plan
    limit = (
        f", planned {amount(sum(map(plan.price, plan.specs)))}"
        if plan.budget.total is None
        else f" of {amount(plan.budget.total)}"
    )
    return f"spent {amount(now.spent)} {UNIT_NAMES[plan.budget.unit]}{limit}"


def _end(folder: RunFolder, now: Overview) -> str:
    """Why the next run would find nothing to do, though trials are missing or a planner may ask for
    more; "" where it would, or where a driver trains now.
    """
    from raysparse.sweep.runner import what_is_left

    plan, missing = now.plan, len(now.plan.specs) - now.finished
    is_live = bool(now.running) and now.silent is not None and now.silent < LIVELY
    if is_live or not now.rows or (not missing and plan.planner is None):
        return ""
    try:
        if what_is_left(plan, folder, Results(folder)).chosen:
            return ""
    except ModuleNotFoundError:  # the planner's packages, which only the machine of the sweep needs
        return ""
    if missing:
        return f"the budget is spent; raise it (--max-flops) to add {missing} trial{'s' * (missing > 1)}"
    within = "" if plan.budget.total is None else " within what is left of the budget"
    return f"the sweep has ended: its planner has nothing more to ask{within}"


def _pace(now: Overview) -> list[str]:
    """How fast it goes, of a sweep that has something left that it can pay for."""
    if now.pace is None or not now.pace.to_go:
        return []
    rate = f"{count(3600 * now.pace.rows / now.pace.seconds)} trials an hour, by the last {duration(now.pace.seconds)}"
    return [f"  {rate}: about {duration(now.pace.to_go)} to go"]


def _life(now: Overview) -> list[str]:
    """When the driver wrote last, of a sweep that has something left to do."""
    is_open = now.plan.planner is not None
    if now.silent is None or (now.finished == len(now.plan.specs) and not is_open):
        return []
    remedy = "" if now.silent < LIVELY else ": if it does not run any more, run it again to continue"
    return [f"  its driver wrote {duration(now.silent)} ago{remedy}"]


def _running(running: tuple[Begun, ...]) -> list[RenderableType]:
    if not running:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("  begun", "step", "loss", "validation", "tokens/s", "wrote"):
        table.add_column(column, justify="left" if column == "  begun" else "right", no_wrap=True)
    for one in running[:SHOWN]:
        trial = one.trial
        losses = ("" if loss is None else f"{loss:.3f}" for loss in (trial.loss, trial.validation_loss))
        speed = "" if trial.tokens_per_second is None else count(trial.tokens_per_second)
        table.add_row(
            f"  {trial.name}", f"{trial.step}/{trial.steps}", *losses, speed, f"{duration(one.silent)} ago"
        )  # fmt: skip
    more = len(running) - SHOWN
    return [table, f"  and {more} more"] if more > 0 else [table]


def disk_table(folder: RunFolder) -> RenderableType:
    """The bytes and files of a run folder's parts, and of what its trials keep."""
    sizes: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path, size in folder.sizes():
        parts = path.split("/")
        part = f"{TRIALS}/*/{parts[2]}" if parts[0] == TRIALS and len(parts) > 2 else parts[0]
        sizes[part] += size
        files[part] += 1
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("part", "files", "bytes"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, size in sizes.most_common():
        table.add_row(part, f"{files[part]:,}", si(size, "B"))
    table.add_row("all", f"{files.total():,}", si(sizes.total(), "B"))
    return table
