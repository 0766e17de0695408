"""The books of a sweep: what its trials cost and what they came to. The only writer of the journal,
of ledger.json and of the pointers to the checkpoints.

An attempt is charged from its lease to the last word of its holder. How long it took to notice that
a holder is gone, and how long the trial then waited for a machine, is charged to nobody: on a
cluster that loses machines such waits are longer than the work.

Left out: which trial comes next and what its end means (`broker`), and arithmetic (`budget`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from raysparse.files import Folder
from raysparse.memory import worker_share
from raysparse.placement import Placement
from raysparse.results import Outcome, Results, make_row
from raysparse.run_folder import LATEST, RunFolder
from raysparse.spec import TrialSpec
from raysparse.sweep.budget import Ledger, Work, ledger_item, load_work, write_ledger
from raysparse.sweep.lease import About, Claim, Report
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.base import RUNNING, Known


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    UNAFFORDABLE = "unaffordable"
    ABANDONED = "abandoned"


@dataclass
class Entry:
    """What the broker knows of one trial. Seconds are of the broker's clock."""

    spec: TrialSpec
    placement: Placement
    token_folder: Folder
    state: State = State.WAITING
    slot: str = ""
    epoch: int = 0  # of its last lease
    deaths: int = 0
    began_at: float = 0.0
    heard_at: float = 0.0  # the last word of the holder
    expires_at: float = -math.inf  # when the last lease has run out
    first_step: int = 0  # where this attempt started: 0, or the step of its checkpoint
    step: int = 0  # how far this attempt is
    reports: list[Report] = field(default_factory=list)
    status: str = ""
    reason: str = ""
    loss: float | None = None  # validation loss of a completed trial, nats per token
    stop: str = ""  # set to end the trial at its next report
    work: Work = field(default_factory=Work)  # of the attempts that have ended

    def begin(self, slot: str, step: int, *, epoch: int, now: float, seconds: float) -> None:
        """A lease of so many seconds, from a checkpoint after `step` steps."""
        self.state, self.slot, self.epoch = State.RUNNING, slot, epoch
        self.began_at = self.heard_at = now
        self.expires_at = now + seconds
        self.first_step = self.step = step

    @property
    def attempt(self) -> Work:
        """What the present attempt has cost so far."""
        return Work(self.step - self.first_step, (self.heard_at - self.began_at) * self.placement.workers)


@dataclass(frozen=True)
class Job:
    """What a sweep is asked to do now: the chosen trials of a plan, in this order, in this run
    folder.
    """

    plan: Plan
    folder: RunFolder
    chosen: Sequence[TrialSpec]


class Books:
    """Reservations, spending and rows of one sweep. Not thread-safe: one broker owns them."""

    def __init__(self, job: Job):
        self.plan, self.run_folder = job.plan, job.folder
        self.results = Results(job.folder)
        self.rows: dict[str, dict[str, Any]] = {row["trial_id"]: row for row in self.results.rows()}
        self.earlier = {spec.trial_id: spec for spec in job.plan.specs if spec.trial_id in self.rows}
        self.before = load_work(job.folder)
        self._ledger_items = {key: ledger_item(key, work) for key, work in self.before.items()}
        self._token_folders: dict[tuple[Any, ...], Folder] = {}
        spent = {spec.trial_id: self._price(spec, self.before.get(spec.trial_id, Work())) for spec in job.plan.specs}
        self.ledger = Ledger(job.plan.budget.limit, spent)

    def _price(self, spec: TrialSpec, work: Work) -> float:
        return self.plan.price_of(spec, work)

    def open(self, spec: TrialSpec) -> Entry:
        """The entry of a trial that was submitted."""
        what = spec.data.corpus, spec.data.tokenizer, spec.data.reading
        if what not in self._token_folders:
            self._token_folders[what] = self.run_folder.tokens(*what)
        return Entry(
            spec, self.plan.placement, self._token_folders[what], work=self.before.get(spec.trial_id, Work())
        )  # fmt: skip

    def reserve(self, spec: TrialSpec, first_step: int) -> bool:
        """Set aside what is left to do of a trial; False when the budget does not have it now."""
        return self.ledger.reserve(spec.trial_id, self.plan.price(spec) * (1.0 - first_step / spec.steps))

    def pay_for(self, entry: Entry, step: int) -> None:
        """Charge the steps to which a trial was trained, where whoever computed them was killed, or
        cut off, before he wrote them down.
        """
        missing = Work(max(0, step - entry.work.steps))
        self.ledger.charge(entry.spec.trial_id, self._price(entry.spec, missing))
        self._add(entry, missing)

    def covers(self, entry: Entry) -> bool:
        """Whether the budget still has what a running attempt has cost: FLOPs always, they were
        reserved; device-seconds are asked for as they pass.
        """
        is_seconds = self.plan.budget.unit == "device_seconds"
        return not is_seconds or self.ledger.extend(entry.spec.trial_id, entry.attempt.seconds)

    def settle(self, entry: Entry) -> None:
        """End the reservation of an attempt and charge what it really used."""
        done = entry.attempt
        self.ledger.settle(entry.spec.trial_id, self._price(entry.spec, done))
        self._add(entry, done)
        entry.state = State.WAITING

    def _add(self, entry: Entry, work: Work) -> None:
        entry.work += work
        self._ledger_items[entry.spec.trial_id] = ledger_item(entry.spec.trial_id, entry.work)

    def save(self, running: Iterable[Entry]) -> None:
        """Write the ledger, running attempts included, so that a driver killed now is charged for
        what it did.
        """
        attempts = {e.spec.trial_id: ledger_item(e.spec.trial_id, e.work + e.attempt) for e in running}
        write_ledger(self.run_folder, self._ledger_items | attempts)

    def point(self, claim: Claim, about: About | None) -> None:
        """Move the pointer of a trial to another checkpoint, or to none."""
        folder = self.run_folder.trial(claim.trial_id)
        if about is None:
            folder.delete(LATEST)
        else:
            folder.write_json(LATEST, {**about, "epoch": claim.epoch})

    def record(self, entry: Entry, outcome: Outcome) -> None:
        """Write the row of a trial that ended."""
        if not outcome.steps and entry.step:  # it ended by an exception, which knows nothing of the work before it
            outcome = dataclasses.replace(outcome, steps=entry.step, tokens=entry.step * entry.spec.tokens_per_step)
        row = make_row(entry.spec, entry.placement, outcome)
        self.results.record(row)
        self.rows[entry.spec.trial_id] = row
        entry.state, entry.status, entry.reason = State.ENDED, outcome.status, outcome.reason
        entry.loss = outcome.validation_loss if outcome.status == "completed" else None

    def known(self, entries: Mapping[str, Entry]) -> list[Known]:
        """Every trial of the sweep as planners see it, those of earlier sessions first."""
        specs = self.earlier | {trial_id: entry.spec for trial_id, entry in entries.items()}
        return [self._known(spec, entries.get(trial_id)) for trial_id, spec in specs.items()]

    def _known(self, spec: TrialSpec, entry: Entry | None) -> Known:
        state = None if entry is None else entry.state
        if state in (State.WAITING, State.RUNNING):
            return Known(spec, RUNNING)
        if entry is not None and state in (State.UNAFFORDABLE, State.ABANDONED):
            return Known(spec, entry.state.value)
        return known_of(spec, self.rows[spec.trial_id])


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
