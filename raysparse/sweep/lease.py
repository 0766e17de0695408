"""Leases: who may train a trial now, and how the side that may not finds out. Plain Python, no Ray,
no torch.

A lease is one attempt at one trial. Its `Claim` is a fencing token: the trial and an epoch that
grows with every lease of it, so whoever was cut off, or stopped and continued, shows an old epoch
and is refused. A lease lives as long as it is heard of: its holder beats every `BEAT` seconds and
counts the lease's time from when it *asked*, the broker from when it *heard*, so the holder always
stops first and two sides can never both believe that they hold a trial. Clocks are monotonic and
are never compared across machines.

The holder writes through a `Fence`: nothing of a trial's folder is written once the lease has run
out and cannot be renewed, and the pointer to its checkpoint is moved by the broker alone, which
refuses an old epoch. Left out: who gets a lease, and what its end means (`broker`).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.run_folder import CHECKPOINT, LATEST, RunFolder
from raysparse.spec import TrialSpec

SECONDS = 30.0  # that a lease lives without a word from its holder
BEATS = 6  # in that time

T = TypeVar("T")

Report = Mapping[str, Any]  # step, steps, tokens, loss, lr, tokens_per_second, validation_loss
About = Mapping[str, Any]  # a checkpoint: file, step, sha256, trial_id, keeps, epoch


class NoLease(StrEnum):
    """What a slot is told when there is no trial for it: ask again later, or go home."""

    WAIT = "wait"
    CLOSED = "closed"


class LeaseLostError(RuntimeError):
    """The trial is somebody else's now: what its former holder still has to say is refused."""


@dataclass(frozen=True)
class Claim:
    """What a holder shows with everything it says of its trial."""

    trial_id: str
    epoch: int


@dataclass(frozen=True)
class Lease:
    """One attempt at one trial: all that a worker needs to know."""

    spec: TrialSpec
    placement: Placement
    run_folder: RunFolder
    token_folder: Folder
    epoch: int = 1
    seconds: float = SECONDS

    @property
    def claim(self) -> Claim:
        return Claim(self.spec.trial_id, self.epoch)

    @property
    def folder(self) -> Folder:
        """Where the trial keeps its files."""
        return self.run_folder.trial(self.spec.trial_id)


class Desk(Protocol):
    """The broker as a holder sees it; in another process, whatever carries these calls there. Each
    raises LeaseLostError when the claim is an old one, or when nobody answers any more.
    """

    def beat(self, claim: Claim) -> bool:
        """Say that the holder lives; the answer is whether its machine is about to go away."""

    def progress(self, claim: Claim, report: Report) -> str:
        """Note a report; the answer is empty, or why the trial should stop."""

    def publish(self, claim: Claim, about: About | None) -> None:
        """Move the trial's pointer to another checkpoint, or to none."""


class Fence:
    """The holder's side of a lease: it beats, and lets writes through as long as the lease lasts.

    `check` costs nothing while the lease is fresh. When it has run out - this process was stopped,
    the broker was out of reach - it asks once more, so a holder whose trial nobody else took goes
    on. Used by a training thread, a checkpoint thread and a beating thread: it only ever sets whole
    values.
    """

    def __init__(self, desk: Desk, lease: Lease, *, clock: Callable[[], float] = time.monotonic):
        self.desk, self.claim, self._clock = desk, lease.claim, clock
        self.seconds = lease.seconds
        self._until = clock() + lease.seconds
        self._lost = ""
        self._is_noticed = False

    def beat(self) -> None:
        """Raises LeaseLostError, now and ever after, once the broker has refused or is gone."""
        self._is_noticed = self._ask(lambda: self.desk.beat(self.claim))

    def check(self) -> None:
        """Raises LeaseLostError unless the trial is this holder's. Called before every write."""
        if self._lost or self._clock() >= self._until:
            self.beat()

    @property
    def is_lost(self) -> bool:
        """Whether the broker has refused this holder, or is gone."""
        return bool(self._lost)

    def is_leaving(self) -> bool:
        """Whether the last beat brought the news that this machine is about to go away: once a
        beat, so that what is saved then is saved again at the next one.
        """
        noticed, self._is_noticed = self._is_noticed, False
        return noticed

    def tell(self, report: Report) -> str:
        """Pass a report on; the answer is empty, or why the trial should stop."""
        return self._ask(lambda: self.desk.progress(self.claim, report))

    def publish(self, about: About | None) -> None:
        self._ask(lambda: self.desk.publish(self.claim, about))

    def _ask(self, call: Callable[[], T]) -> T:
        """Every answer is a sign of life for both sides."""
        if self._lost:
            raise LeaseLostError(self._lost)
        asked = self._clock()
        try:
            answer = call()
        except LeaseLostError as error:
            self._lost = str(error)
            raise
        self._until = max(self._until, asked + self.seconds)
        return answer


class FencedFolder(Folder):
    """The folder of a leased trial: whatever is written there passes the fence, and latest.json,
    which says from where the trial continues, is written by the broker. Not to be pickled.
    """

    def __init__(self, folder: Folder, fence: Fence):
        self.__dict__.update(vars(folder))  # the same place, by the same means
        self.fence = fence
        self.mark = f"-{fence.claim.epoch}-{secrets.token_hex(3)}"

    def write(self, name: str, data: bytes | memoryview) -> None:
        self.fence.check()
        if name != LATEST:
            super().write(name, data)
            return
        about = json.loads(bytes(data))
        try:
            self.fence.publish(about)
        except LeaseLostError:
            super().delete(f"{CHECKPOINT}/{about['file']}")  # nobody else has a file of this name
            raise

    def delete(self, name: str) -> None:
        self.fence.check()
        if name == LATEST:
            self.fence.publish(None)
        else:
            super().delete(name)
