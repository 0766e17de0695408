"""What a run folder says of its sweep to whoever looks at it from outside, on any machine.

Nobody is asked: whether a sweep lives is read from when it wrote last. The broker writes the ledger
every second (every 15 on an object store), a worker the log of its trial every ten; both ages are
by this machine's clock against the storage's. The rate is that of the rows' own stamps, so a folder
that was copied without its times has none. Left out: drawing it (`console/status`), and what the
sweep's own process knows (`snapshot`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raysparse.files import Folder
from raysparse.results import FINAL, Results
from raysparse.run_folder import LEDGER, LOCK, METRICS, RunFolder
from raysparse.spec import TrialSpec
from raysparse.sweep.budget import load_work
from raysparse.sweep.plan import Plan, load
from raysparse.sweep.snapshot import Running, running_of

WINDOW, LATEST = 3600.0, 50  # seconds before the last row, and rows, from which a rate is taken
COPIED = 5.0  # seconds: rows that all came within fewer were copied, or are too few to tell a rate


@dataclass(frozen=True)
class Begun:
    """A trial that has begun and has not ended, and the seconds since its worker wrote last."""

    trial: Running
    silent: float


@dataclass(frozen=True)
class Pace:
    """How fast rows came: `rows` in `seconds`, and the seconds that the rest takes at that pace."""

    rows: int
    seconds: float
    to_go: float


@dataclass(frozen=True)
class Overview:
    """Where a sweep stands. `rows` are those of its plan, by trial id; `begun` counts trials with a
    folder or a row of which none is final. `running` are those of them that did not end since,
    heard of last first. `silent`: seconds since the driver wrote last, None when it never did.
    """

    plan: Plan
    rows: Mapping[str, dict[str, Any]]
    begun: int
    running: tuple[Begun, ...]
    spent: float
    pace: Pace | None
    silent: float | None

    @property
    def finished(self) -> int:
        return sum(row["status"] in FINAL for row in self.rows.values())


def overview(folder: RunFolder, clock: Callable[[], float] = time.time) -> Overview:
    """Look at a run folder. An object store is asked for all of it together, since each answer
    takes its time. Raises ValueError when it is no run folder.
    """
    results, now = Results(folder), clock()
    with ThreadPoolExecutor() as pool:
        rows_to_come, work_to_come = pool.submit(results.rows), pool.submit(load_work, folder)
        folders_to_come, stamps_to_come = pool.submit(folder.begun), pool.submit(folder.stamps)
        plan = load(folder)
    ids = set(plan.trial_ids)
    rows = {row["trial_id"]: row for row in rows_to_come.result() if row["trial_id"] in ids}
    work, stamps = work_to_come.result(), stamps_to_come.result()
    begun = folders_to_come.result() | rows.keys()
    open_trials = [spec for spec in plan.specs if spec.trial_id in begun and not _is_final(rows.get(spec.trial_id))]
    running = _running(folder, open_trials, results.written_at, now)
    spent = sum(plan.price_of(s, work[s.trial_id]) for s in plan.specs if s.trial_id in work)
    written = [stamps[name].written_at / 1e9 for name in (LEDGER, LOCK) if name in stamps]
    return Overview(
        plan=plan, rows=rows, begun=len(open_trials), running=running, spent=spent,
        pace=_pace(plan, rows, results.written_at, running, spent),
        silent=max(0.0, now - max(written)) if written else None,
    )  # fmt: skip


def _is_final(row: dict[str, Any] | None) -> bool:
    return row is not None and row["status"] in FINAL


def _running(
    folder: RunFolder, specs: Sequence[TrialSpec], ended_at: Mapping[str, float], now: float
) -> tuple[Begun, ...]:
    """Those of the trials that were written to since their row, if they have one."""
    found = folder.each(lambda spec: _seen(folder.trial(spec.trial_id), spec), specs)
    alive = [(trial, at) for trial, at in found if at > ended_at.get(trial.trial_id, 0.0)]
    begun = [Begun(trial, max(0.0, now - at)) for trial, at in alive]
    return tuple(sorted(begun, key=lambda one: one.silent))


def _seen(folder: Folder, spec: TrialSpec) -> tuple[Running, float]:
    """What a trial's folder says of it, and when it was written to last (seconds since 1970); 0
    where nothing was.
    """
    stamps = folder.stamps()
    lines = folder.read(METRICS).splitlines() if METRICS in stamps else []
    reports = [json.loads(line) for line in lines if line]
    at = max((stamp.written_at / 1e9 for stamp in stamps.values()), default=0.0)
    return running_of(spec, reports[-1]["step"] if reports else 0, reports), at


def _pace(
    plan: Plan, rows: Mapping[str, dict[str, Any]], written_at: Mapping[str, float], running: Sequence[Begun],
    spent: float,
) -> Pace | None:  # fmt: skip
    """None when fewer than two rows came within the window, or all at once. What is to go counts in
    planned seconds, or in the budget's unit where a planner spends it.
    """
    is_open = plan.planner is not None and plan.budget.total is not None
    work = plan.price if is_open else plan.seconds
    ended = [(written_at[s.trial_id], s) for s in plan.specs if _is_final(rows.get(s.trial_id))]
    ended = sorted(ended, key=lambda each: each[0])[-LATEST:]
    ended = [(at, spec) for at, spec in ended if at >= ended[-1][0] - WINDOW]
    if len(ended) < 2 or (seconds := ended[-1][0] - ended[0][0]) < COPIED:
        return None
    speed = sum(work(spec) for _, spec in ended[1:]) / seconds
    left = plan.budget.limit - spent
    taken = {one.trial.trial_id: one.trial.step for one in running}
    if is_open:
        to_go = left
    else:
        todo = {s: taken.get(s.trial_id, 0) for s in plan.specs if not _is_final(rows.get(s.trial_id))}
        to_go = sum(work(spec) * (1.0 - todo[spec] / spec.steps) for spec in plan.affordable(todo, left))
    return Pace(len(ended) - 1, seconds, max(0.0, to_go) / speed)
