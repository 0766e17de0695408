"""The broker: which trial runs next, and what its end means. Plain Python, no Ray, no torch.

Every rule of a sweep lives in this one object, and both executors obey it - `inline` calls it,
`fleet` wraps it in a Ray actor. A slot (one group of workers) takes a lease, trains, and says how
it ended. A lease that is not heard of goes to whoever asks next, and its former holder is refused
(`lease`); a slot that asks while it holds one has died and come back, and is served the same trial
again. A trial is finished when its row is there, exactly once (`books`).

How a trial can end: it completed, was pruned or diverged: final. Out of memory: again with half the
micro-batch until it is 1, then `out_of_memory`. An exception: `failed`, with the traceback in
`trials/<id>/failure.txt`. Its worker died `MAX_DEATHS` times, the last time with half the
micro-batch: `failed`. Its machine went away: not held against it, and where that and an error
coincide the machine is the cause; `preempted` if none comes back. Not affordable: no row, it waits
for a larger budget. Left out: starting processes (`fleet`), and telling people (`progress`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator

from raysparse import faults
from raysparse.results import Outcome
from raysparse.spec import TrialSpec
from raysparse.sweep import lease as leases
from raysparse.sweep.books import Books, Entry, Job, State, half_micro_batch
from raysparse.sweep.halving import Rungs
from raysparse.sweep.lease import About, Claim, Lease, LeaseLostError, NoLease, Report
from raysparse.sweep.planners.base import Known
from raysparse.sweep.slots import Slots

log = logging.getLogger(__name__)
DISK_FULL = os.strerror(errno.ENOSPC)
MAX_DEATHS = 3  # of the processes that train one trial; a fourth start would end the same way
DIED = f"its worker died {MAX_DEATHS} times without a Python error (killed, perhaps by the system for memory)"
MAX_UNWRITTEN = 10  # ends of attempts that could not be written down, before nothing else is tried
SAVE_EVERY = {True: 1.0, False: 15.0}  # seconds between writings of the ledger, on a local disk and on an object store


class Broker:
    """The state of a running sweep. One per sweep; not thread-safe.

    Trials come by `submit`, not from the job, so that a search may choose them as it goes. `clock`
    (seconds) is for tests. `lease_seconds`: how long a lease lives unheard of. `patience`: seconds
    after which a slot without work goes home while others still work, so that its machine is free.
    """

    def __init__(
        self,
        job: Job,
        *,
        clock: Callable[[], float] = time.monotonic,
        lease_seconds: float = leases.SECONDS,
        patience: float = math.inf,
    ):
        self.plan, self.run_folder, self.chosen = job.plan, job.folder, tuple(job.chosen)
        self.books = Books(job)
        self.ledger, self.results = self.books.ledger, self.books.results
        self.entries: dict[str, Entry] = {}
        self.closed = False
        self.halted = ""  # why no other trial is tried
        self.slots = Slots(clock, patience)
        self._clock, self._lease_seconds = clock, lease_seconds
        self._called_at = self._saved_at = clock()
        self._queue: deque[str] = deque()
        self._unwritten = 0  # ends of attempts that could not be written down
        self._too_dear: set[str] = set()  # of the queue: what the budget does not have now
        self._rungs = Rungs(job.plan.stopping) if job.plan.stopping is not None else None
        if self._rungs is not None:
            for trial_id, spec in self.books.earlier.items():
                self._rungs.learn(spec, self.plan.price(spec), self.books.rows[trial_id])

    # -- what is asked of the broker by whoever chooses the trials --

    def submit(self, spec: TrialSpec) -> None:
        """Queue a trial. Once is enough, twice is no error: the answer to the first may have been
        lost.
        """
        if spec.trial_id in self.entries:
            return
        entry = self.entries[spec.trial_id] = self.books.open(spec)
        if self.halted:
            entry.state, entry.reason = State.ABANDONED, self.halted
        else:
            self._queue.append(spec.trial_id)

    def standing(self) -> tuple[list[Known], float]:
        """Every trial of the sweep as planners see it, and what is left to spend on others."""
        waiting = math.fsum(self.plan.price(self.entries[trial_id].spec) for trial_id in self._queue)
        return self.books.known(self.entries), max(0.0, self.ledger.remaining - waiting)

    def stop(self, trial_id: str, reason: str) -> None:
        """End a trial at its next report, as pruned; one that has not begun never begins."""
        entry = self.entries[trial_id]
        if entry.state is State.RUNNING:
            entry.stop = reason
        elif entry.state is State.WAITING:
            self._queue.remove(trial_id)
            self.books.record(entry, Outcome(status="pruned", reason=reason))

    def close(self) -> None:
        """No more trials will come: slots without work are told to end."""
        self.closed = True

    def give_up(self, reason: str) -> None:
        """No slot is left: trials that had begun are preempted, the others stay without a row; the
        next run tries both again.
        """
        for trial_id in [trial_id for trial_id in self._queue if self.entries[trial_id].work.steps]:
            self.books.record(self.entries[trial_id], Outcome(status="preempted", reason=reason))
            self._queue.remove(trial_id)
        self._abandon(reason)

    def reports(self, trial_id: str, seen: int) -> tuple[list[Report], bool]:
        """The reports of a trial after the first `seen`, and whether it has ended."""
        entry = self.entries[trial_id]
        return entry.reports[seen:], entry.state not in (State.WAITING, State.RUNNING)

    @property
    def present(self) -> tuple[str, ...]:
        """Slots that have workers: heard of within the time of a lease."""
        return self.slots.present(self._lease_seconds)

    @property
    def wanted(self) -> int:
        """Trials that a slot would be given now if it asked."""
        asked = (*self._queue, *self.slots.held.values())
        return sum(self._is_free(trial_id) for trial_id in asked if trial_id not in self._too_dear)

    # -- what the slots say --

    def take(
        self, slot: str, *, group: str = "", workers: int = 0, preempted: bool = False, leaving: bool = False
    ) -> Lease | NoLease:
        """The next trial for a slot, trained by as many `workers` as it has now (0: as planned).

        `group` names one start of its workers. Another group than the last has followed one that
        died, `preempted` if a machine did; one that was followed is told to go home. A slot whose
        machine is `leaving` gets nothing.
        """
        self._awake()
        if self.slots.is_former(slot, group):
            return NoLease.CLOSED
        self._came_back(slot, group, preempted)
        for trial_id in [trial_id for trial_id in self.slots.held.values() if self._is_free(trial_id)]:
            self.lost(self.entries[trial_id].slot, "preempted")
        if leaving:
            return NoLease.WAIT
        for trial_id in filter(self._is_free, self._queue):
            if (lease := self._lease(trial_id, slot, workers)) is not None:
                self._queue.remove(trial_id)
                return lease
        return self._nothing_for(slot)

    def _came_back(self, slot: str, group: str, preempted: bool) -> None:
        """A slot that asks holds nothing any more: its group has died, or lost its lease."""
        died, blamed = self.slots.arrive(slot, group), self.slots.blamed.pop(slot, "")
        if slot in self.slots.held:
            if not (died and preempted):  # it knows that it lost its lease, or Ray has ended it
                self.entries[self.slots.held[slot]].expires_at = -math.inf
            self.lost(slot, "failed" if died and not preempted else "preempted")
        elif blamed and preempted:  # its error came before the news of the machine
            self.entries[blamed].deaths -= 1

    def _nothing_for(self, slot: str) -> NoLease:
        if not self.slots.held and self._too_dear.issuperset(self._queue):  # nobody can give anything back any more
            for trial_id in self._queue:
                entry = self.entries[trial_id]
                entry.state, entry.reason = State.UNAFFORDABLE, "the budget does not have what it costs"
            self._queue.clear()
        if (self.closed and not self._queue) or self.slots.may_go(slot):
            self.slots.leave(slot)
            return NoLease.CLOSED
        return NoLease.WAIT

    def _lease(self, trial_id: str, slot: str, workers: int) -> Lease | None:
        """The trial for this slot, or None when the budget does not have now what it costs."""
        entry = self.entries[trial_id]
        reached = self.run_folder.reached(entry.spec)
        step, epoch = reached.start, max(entry.epoch, reached.epoch) + 1
        self.books.pay_for(entry, reached.step)
        if not self.books.reserve(entry.spec, step):
            self._too_dear.add(trial_id)
            return None
        entry.placement = entry.placement.replace(workers=workers or self.plan.placement.workers)
        entry.begin(slot, step, epoch=epoch, now=self._clock(), seconds=self._lease_seconds)
        self.slots.work(slot, trial_id)
        faults.point("trial.leased")
        return Lease(entry.spec, entry.placement, self.run_folder, entry.token_folder, entry.epoch, self._lease_seconds)

    def beat(self, claim: Claim) -> bool:
        """A holder lives. Whether its machine is about to go away is not known here."""
        self._hear(claim)
        return False

    def progress(self, claim: Claim, report: Report) -> str:
        """Note a report. The answer is empty, or the reason why the trial should stop now."""
        entry = self._hear(claim)
        entry.step = int(report["step"])
        entry.reports.append(report)
        if self._rungs is not None and report.get("validation_loss") is not None:
            price_of_it, loss = self.plan.price(entry.spec), float(report["validation_loss"])
            entry.stop = entry.stop or self._rungs.judge(entry.spec, price_of_it, entry.step, loss)
        if self._clock() - self._saved_at > SAVE_EVERY[self.run_folder.is_local]:
            self._saved_at = self._clock()
            try:
                self._save()
            except OSError as error:  # the trial that reports has nothing to do with it
                log.warning("the ledger is not written (%s); it is tried again", error)
        return entry.stop

    def publish(self, claim: Claim, about: About | None) -> None:
        """Move the pointer of a trial to another checkpoint, or to none."""
        self._hear(claim)
        self.books.point(claim, about)

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """A trial ended in its worker: settle, then record it or, where it had too little memory
        and a smaller micro-batch is left to try, queue it again. Of several ranks that fail, the
        first one tells the cause; the others are ignored.
        """
        entry = self.entries[claim.trial_id]
        if entry.epoch == claim.epoch and entry.state is not State.RUNNING:
            return
        self._hear(claim)
        entry.expires_at = -math.inf  # the holder says so itself
        if outcome.status == "preempted":  # other ranks are gone, for a reason that this one does not know
            return self.lost(entry.slot, "failed", outcome.reason)
        entry.step = max(entry.step, outcome.steps)
        with self._written(entry):
            self._settle(entry)
            smaller = half_micro_batch(entry.spec, entry.placement, outcome.micro_batch)
            if outcome.status == "out_of_memory" and smaller:
                entry.placement = smaller
                return self._queue.appendleft(claim.trial_id)
            self.books.record(entry, outcome)
        if outcome.status == "failed" and DISK_FULL in outcome.reason:  # as it would for every other trial
            self.halted = f"not tried: {outcome.reason}"
            self.give_up(self.halted)

    def lost(self, slot: str, status: str = "failed", reason: str = "") -> None:
        """The process of a slot is gone. Its trial is queued first again, until it has taken too
        many with it; one that may live on, cut off, is given the rest of its lease first.
        """
        trial_id = self.slots.held.get(slot)
        if trial_id is None:
            return
        entry = self.entries[trial_id]
        if status == "out_of_memory":
            reason = reason or "its worker was killed for its memory"
            return self.finish(Claim(trial_id, entry.epoch), Outcome(status="out_of_memory", reason=reason))
        with self._written(entry):
            self._settle(entry)
            if status != "preempted":
                entry.deaths += 1
                self.slots.blamed[slot] = trial_id
            if entry.deaths >= MAX_DEATHS:
                return self.books.record(entry, Outcome(status="failed", reason=reason or DIED))
        if entry.deaths == MAX_DEATHS - 1:  # the system kills for memory without a word: the last try takes less of it
            entry.placement = half_micro_batch(entry.spec, entry.placement) or entry.placement
        self._queue.appendleft(trial_id)

    # -- what follows --

    def _hear(self, claim: Claim) -> Entry:
        """The entry of a claim that holds, heard of now. Raises LeaseLostError for an old claim."""
        self._awake()
        entry = self.entries[claim.trial_id]
        if entry.state is not State.RUNNING or entry.epoch != claim.epoch:
            now = f"the trial is {entry.state.value} under lease {entry.epoch} of {entry.slot}"
            raise LeaseLostError(f"lease {claim.epoch} of trial {claim.trial_id} ran out; {now}")
        entry.heard_at = self._called_at
        self.slots.hear(entry.slot)
        entry.expires_at = max(entry.expires_at, entry.heard_at + self._lease_seconds)
        if not self.books.covers(entry):
            entry.stop = "the budget of device-seconds is spent"
        return entry

    def _awake(self) -> None:
        """A broker that was stopped or busy has heard of nobody: leases live on by that time."""
        now = self._clock()
        missed = now - self._called_at
        if missed > self._lease_seconds / leases.BEATS:
            for trial_id in self.slots.held.values():
                self.entries[trial_id].expires_at += missed
        self._called_at = now

    def _is_free(self, trial_id: str) -> bool:
        """Whether nobody can believe that he holds a trial: its last lease has run out, or its
        holder is dead.
        """
        return self._clock() > self.entries[trial_id].expires_at

    @contextlib.contextmanager
    def _written(self, entry: Entry) -> Iterator[None]:
        """Inside the `with` the end of an attempt is written down. A trial of which that failed is
        queued again, to continue from its last checkpoint; where it goes on failing no other is
        tried.
        """
        try:
            yield
        except OSError as error:
            entry.state = State.WAITING
            self._queue.appendleft(entry.spec.trial_id)
            self._unwritten += 1
            if self._unwritten >= MAX_UNWRITTEN:
                self.halted = f"not tried: the sweep's own files cannot be written ({error})"
                self._abandon(self.halted)
            raise

    def _abandon(self, reason: str) -> None:
        """Leave what is queued without rows; the next run tries it again."""
        for trial_id in self._queue:
            entry = self.entries[trial_id]
            entry.state, entry.reason = State.ABANDONED, reason
        self._queue.clear()
        self.closed = True

    def _settle(self, entry: Entry) -> None:
        self.books.settle(entry)
        self.slots.held.pop(entry.slot)
        self._too_dear.clear()
        self._save()
        faults.point("ledger.settled")

    def _save(self) -> None:
        self.books.save(self.entries[trial_id] for trial_id in self.slots.held.values())
        self._saved_at = self._clock()
