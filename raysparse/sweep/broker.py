"""The broker: which trial runs next, what its end means, and what it cost. Plain Python, no Ray, no
torch.

Every rule of a sweep lives in this one object, and both executors obey it - `inline` calls it,
`fleet` wraps it in a Ray actor. A slot (one group of workers) takes a lease, trains, and says how
it ended. A slot that asks for work while the broker believes it is busy has died and come back, so
its lease is served again and the trial continues from its own checkpoint. The broker is the only
writer of the journal: a trial is finished when its row is there, exactly once.

How a trial can end: it completed, was pruned or diverged: final. Out of memory: again with half the
micro-batch until it is 1, then `out_of_memory`. An exception: `failed`, with the traceback in
`trials/<id>/failure.txt`. Its worker died `MAX_DEATHS` times, the last time with half the
micro-batch: `failed`. Its machine went away: `preempted` if none comes back, and not held against
it. Not affordable: no row, it waits for a larger budget.

Left out: starting processes (`fleet`), and telling people (`progress`).
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from raysparse import faults
from raysparse.files import Folder
from raysparse.memory import worker_share
from raysparse.placement import Placement
from raysparse.results import Outcome, Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.spec import TrialSpec
from raysparse.sweep.budget import Ledger, Work, load_work, price, save_work
from raysparse.sweep.halving import Rungs
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.base import RUNNING, Known

DISK_FULL = os.strerror(errno.ENOSPC)
MAX_DEATHS = 3  # of the processes that train one trial; a fourth start would end the same way
SAVE_EVERY = {True: 1.0, False: 15.0}  # seconds between writings of the ledger, on a local disk and on an object store

Report = Mapping[str, Any]  # step, steps, tokens, loss, lr, tokens_per_second, validation_loss


class NoLease(StrEnum):
    """What a slot is told when there is no trial for it: ask again later, or go home."""

    WAIT = "wait"
    CLOSED = "closed"


@dataclass(frozen=True)
class Lease:
    """One attempt at one trial: all that a worker needs to know."""

    spec: TrialSpec
    placement: Placement
    run_folder: RunFolder
    token_folder: Folder

    @property
    def folder(self) -> Folder:
        """Where the trial keeps its files."""
        return self.run_folder.trial(self.spec.trial_id)


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    UNAFFORDABLE = "unaffordable"
    ABANDONED = "abandoned"


@dataclass
class Entry:
    """What the broker knows of one trial."""

    spec: TrialSpec
    placement: Placement
    token_folder: Folder
    state: State = State.WAITING
    slot: str = ""
    deaths: int = 0
    began_at: float = 0.0  # seconds, of the broker's clock
    first_step: int = 0  # where this attempt started: 0, or the step of its checkpoint
    step: int = 0  # how far this attempt is
    reports: list[Report] = field(default_factory=list)
    status: str = ""
    reason: str = ""
    loss: float | None = None  # validation loss of a completed trial, nats per token
    stop: str = ""  # set to end the trial at its next report
    work: Work = field(default_factory=Work)  # of the attempts that have ended


@dataclass(frozen=True)
class Job:
    """What a sweep is asked to do now: the chosen trials of a plan, in this order, in this run
    folder.
    """

    plan: Plan
    folder: RunFolder
    chosen: Sequence[TrialSpec]


class Broker:
    """The state of a running sweep. One per sweep; not thread-safe.

    Trials come by `submit`, not from the job, so that a search may choose them as it goes. `clock`
    (seconds) is for tests.
    """

    def __init__(self, job: Job, *, clock: Callable[[], float] = time.monotonic):
        self.plan = plan = job.plan
        self.run_folder = job.folder
        self.results = Results(job.folder)
        self.chosen = tuple(job.chosen)
        self.entries: dict[str, Entry] = {}
        self.closed = False
        self.halted = ""  # why no other trial is tried
        self._clock = clock
        self._queue: deque[str] = deque()
        self._held: dict[str, str] = {}  # slot -> trial id
        self._before = load_work(job.folder)
        self._saved_at = clock()
        unit = plan.budget.unit
        spent = {spec.trial_id: price(spec, unit, self._before.get(spec.trial_id, Work())) for spec in plan.specs}
        self.ledger = Ledger(plan.budget.limit, spent)
        self._rows = {row["trial_id"]: row for row in self.results.rows()}
        self._earlier = {spec.trial_id: spec for spec in plan.specs if spec.trial_id in self._rows}
        self._rungs = Rungs(plan.stopping) if plan.stopping is not None else None
        if self._rungs is not None:
            for trial_id, spec in self._earlier.items():
                self._rungs.learn(spec, plan.price(spec), self._rows[trial_id])

    # -- what is asked of the broker by whoever chooses the trials --

    def submit(self, spec: TrialSpec) -> None:
        """Queue a trial."""
        if spec.trial_id in self.entries:
            raise RuntimeError(f"trial {spec.trial_id} was submitted already")
        entry = Entry(
            spec, self.plan.placement, self.run_folder.tokens(spec.data.corpus, spec.data.tokenizer, spec.data.reading)
        )
        entry.work = self._before.get(spec.trial_id, Work())
        self.entries[spec.trial_id] = entry
        if self.halted:
            entry.state, entry.reason = State.ABANDONED, self.halted
        else:
            self._queue.append(spec.trial_id)

    def standing(self) -> tuple[list[Known], float]:
        """Every trial of the sweep as planners see it, and what is left to spend on others."""
        specs = self._earlier | {key: entry.spec for key, entry in self.entries.items()}
        states = {key: entry.state for key, entry in self.entries.items()}
        known = [self._known(spec, states.get(trial_id)) for trial_id, spec in specs.items()]
        waiting = math.fsum(self.plan.price(self.entries[trial_id].spec) for trial_id in self._queue)
        return known, max(0.0, self.ledger.remaining - waiting)

    def _known(self, spec: TrialSpec, state: State | None) -> Known:
        if state in (State.WAITING, State.RUNNING):
            return Known(spec, RUNNING)
        if state in (State.UNAFFORDABLE, State.ABANDONED):
            return Known(spec, state.value)
        return known_of(spec, self._rows[spec.trial_id])

    def stop(self, trial_id: str, reason: str) -> None:
        """End a trial at its next report, as pruned; one that has not begun never begins."""
        entry = self.entries[trial_id]
        if entry.state is State.RUNNING:
            entry.stop = reason
        elif entry.state is State.WAITING:
            self._queue.remove(trial_id)
            self._end(trial_id, Outcome(status="pruned", reason=reason))

    def close(self) -> None:
        """No more trials will come: slots without work are told to end."""
        self.closed = True

    def give_up(self, reason: str) -> None:
        """No slot is left: trials that had begun are preempted, the others stay without a row; the
        next run tries both again.
        """
        for trial_id in self._queue:
            entry = self.entries[trial_id]
            if entry.work.steps:
                self._end(trial_id, Outcome(status="preempted", reason=reason))
            else:
                entry.state, entry.reason = State.ABANDONED, reason
        self._queue.clear()
        self.closed = True

    def reports(self, trial_id: str, seen: int) -> tuple[list[Report], bool]:
        """The reports of a trial after the first `seen`, and whether it has ended."""
        entry = self.entries[trial_id]
        return entry.reports[seen:], entry.state not in (State.WAITING, State.RUNNING)

    # -- what the slots say --

    def take(self, slot: str, *, preempted: bool = False) -> Lease | NoLease:
        """The next trial for a slot. A slot that still holds one has died since; `preempted` when
        its machine did.
        """
        if slot in self._held:
            self.lost(slot, "preempted" if preempted else "failed")
        for trial_id in self._queue:
            if (lease := self._lease(trial_id, slot)) is not None:
                self._queue.remove(trial_id)
                return lease
        if not self._held:  # nobody can give anything back any more
            for trial_id in self._queue:
                entry = self.entries[trial_id]
                entry.state, entry.reason = State.UNAFFORDABLE, "the budget does not have what it costs"
            self._queue.clear()
        return NoLease.CLOSED if self.closed and not self._queue else NoLease.WAIT

    def _lease(self, trial_id: str, slot: str) -> Lease | None:
        """The trial for this slot, or None when the budget does not have now what it costs."""
        entry = self.entries[trial_id]
        first = self.run_folder.checkpoint_step(trial_id)
        if not self.ledger.reserve(trial_id, self.plan.price(entry.spec) * (1.0 - first / entry.spec.steps)):
            return None
        entry.state, entry.slot, entry.began_at = State.RUNNING, slot, self._clock()
        entry.first_step = entry.step = first
        self._held[slot] = trial_id
        faults.point("trial.leased")
        return Lease(entry.spec, entry.placement, self.run_folder, entry.token_folder)

    def progress(self, trial_id: str, report: Report) -> str:
        """Note a report. The answer is empty, or the reason why the trial should stop now."""
        entry = self.entries[trial_id]
        entry.step = int(report["step"])
        entry.reports.append(report)
        if self.plan.budget.unit == "device_seconds" and not self.ledger.extend(trial_id, self._attempt(entry).seconds):
            entry.stop = "the budget of device-seconds is spent"
        if self._rungs is not None and report.get("validation_loss") is not None:
            price_of_it, loss = self.plan.price(entry.spec), float(report["validation_loss"])
            entry.stop = entry.stop or self._rungs.judge(entry.spec, price_of_it, entry.step, loss)
        if self._clock() - self._saved_at > SAVE_EVERY[self.run_folder.is_local]:
            self._save()
        return entry.stop

    def finish(self, slot: str, trial_id: str, outcome: Outcome) -> None:
        """A trial ended in its worker: settle, then record it or, where it had too little memory
        and a smaller micro-batch is left to try, queue it again.

        Ignored when the slot does not hold the trial: when several ranks of a group fail, the first
        one tells the cause.
        """
        if self._held.get(slot) != trial_id:
            return
        entry = self.entries[trial_id]
        entry.step = max(entry.step, outcome.steps)
        self._settle(trial_id)
        smaller = half_micro_batch(entry.spec, entry.placement, outcome.micro_batch)
        if outcome.status == "out_of_memory" and smaller:
            entry.placement, entry.state = smaller, State.WAITING
            self._queue.appendleft(trial_id)
        else:
            self._end(trial_id, outcome)
            if outcome.status == "failed" and DISK_FULL in outcome.reason:  # as it would for every other trial
                self.halted = f"not tried: {outcome.reason}"
                self.give_up(self.halted)

    def lost(self, slot: str, status: str = "failed", reason: str = "") -> None:
        """The process of a slot is gone. Its trial is queued first again, until it has taken too
        many processes with it.
        """
        trial_id = self._held.get(slot)
        if trial_id is None:
            return
        entry = self.entries[trial_id]
        if status == "out_of_memory":
            self.finish(
                slot, trial_id, Outcome(status="out_of_memory", reason=reason or "its worker was killed for its memory")
            )
            return
        self._settle(trial_id)
        entry.deaths += status != "preempted"
        if entry.deaths < MAX_DEATHS:
            if (
                entry.deaths == MAX_DEATHS - 1
            ):  # the system kills for memory without a word, so the last try takes less of it
                entry.placement = half_micro_batch(entry.spec, entry.placement) or entry.placement
            entry.state = State.WAITING
            self._queue.appendleft(trial_id)
        else:
            died = (
                f"its worker died {entry.deaths} times without a Python error (killed, perhaps by the system "
                f"for memory)"
            )
            self._end(trial_id, Outcome(status="failed", reason=reason or died))

    # -- what follows --

    def _attempt(self, entry: Entry) -> Work:
        seconds = (self._clock() - entry.began_at) * entry.placement.workers
        return Work(entry.step - entry.first_step, seconds)

    def _settle(self, trial_id: str) -> None:
        entry = self.entries[trial_id]
        done = self._attempt(entry)
        self.ledger.settle(trial_id, price(entry.spec, self.plan.budget.unit, done))
        self._held.pop(entry.slot)
        entry.work += done
        self._save()
        faults.point("ledger.settled")

    def _save(self) -> None:
        """Write the ledger, running attempts included, so that a driver killed now is charged for
        what it did.
        """
        work = self._before | {key: entry.work for key, entry in self.entries.items()}
        for trial_id in self._held.values():
            work[trial_id] += self._attempt(self.entries[trial_id])
        save_work(self.run_folder, work)
        self._saved_at = self._clock()

    def _end(self, trial_id: str, outcome: Outcome) -> None:
        entry = self.entries[trial_id]
        if not outcome.steps and entry.step:  # it ended by an exception, which knows nothing of the work before it
            outcome = dataclasses.replace(outcome, steps=entry.step, tokens=entry.step * entry.spec.tokens_per_step)
        row = self._rows[trial_id] = make_row(entry.spec, entry.placement, outcome)
        self.results.record(row)
        entry.state, entry.status, entry.reason = State.ENDED, outcome.status, outcome.reason
        entry.loss = outcome.validation_loss if outcome.status == "completed" else None


def known_of(spec: TrialSpec, row: dict[str, Any]) -> Known:
    """A trial that ended, as planners see it."""
    loss = row["validation_loss"] if row["status"] == "completed" else None
    return Known(spec, row["status"], loss, row)


def half_micro_batch(spec: TrialSpec, placement: Placement, used: int = 0) -> Placement | None:
    """The same placement with half the sequences in a forward pass, hence the same result from less
    memory; None at one. `used`: how many the worker chose, where it did.
    """
    whole = min(used or placement.micro_batch or spec.optimizer.batch_sequences, worker_share(spec, placement))
    return placement.replace(micro_batch=whole // 2) if whole > 1 else None
