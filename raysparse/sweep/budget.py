"""Budgets: how much a sweep may spend, and a ledger that never lets it spend more.

A trial reserves what it can cost at most *before* it starts and settles what it really used when it
ends, so at every moment `spent + reserved <= limit`. A crashed trial costs what it used; the
attempt after it reserves again, for what is left to do. FLOPs are exact, so a FLOP budget holds
exactly; device-seconds are an estimate until they are spent, so a running trial asks to `extend`
its reservation and is stopped when the budget has no more, at its next report: a second late.

Left out: money (a price per device-second belongs to whoever pays it), and which trial comes next
(`broker`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raysparse import counts
from raysparse.files import Folder
from raysparse.record import Record, require, require_choice
from raysparse.run_folder import LEDGER
from raysparse.spec import TrialSpec

Unit = Literal["flops_active", "flops_executed", "device_seconds"]

UNIT_NAMES: dict[str, str] = {
    "flops_active": "active FLOPs",
    "flops_executed": "FLOPs",
    "device_seconds": "device-seconds",
}


@dataclass(frozen=True, kw_only=True)
class Budget(Record):
    """What is limited, and where; None means no limit. `flops_executed` is what the products really
    compute.
    """

    unit: Unit = "flops_executed"
    per_trial: float | None = None
    total: float | None = None

    def __post_init__(self) -> None:
        require_choice("budget.unit", self.unit, Unit)
        for key in ("per_trial", "total"):
            limit = getattr(self, key)
            holds = limit is None or (math.isfinite(limit) and limit > 0)
            require(
                holds, f"budget.{key}", limit, f"a positive number of {UNIT_NAMES[self.unit]}, or none for no limit"
            )

    @property
    def limit(self) -> float:
        return math.inf if self.total is None else self.total

    def admits(self, cost: float) -> bool:
        """Whether a trial of this cost is within the limit of one trial."""
        return self.per_trial is None or cost <= self.per_trial


@dataclass
class Work:
    """What was spent on one trial over all its attempts: steps computed (repeated ones count again)
    and device-seconds.
    """

    steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.steps + other.steps, self.seconds + other.seconds)


def price(spec: TrialSpec, unit: Unit, work: Work, *, device: str) -> float:
    """What some work on a trial costs in `unit`; the device decides which products are executed."""
    if unit == "device_seconds":
        return work.seconds
    active, executed = counts.flops(spec, device=device)
    return (active if unit == "flops_active" else executed) / spec.steps * work.steps


def load_work(folder: Folder) -> dict[str, Work]:
    """What earlier runs of the sweep spent, by trial id; it holds whatever unit a budget counts
    in.
    """
    held = folder.read_json_if_there(LEDGER) or {}
    return {key: Work(**values) for key, values in held.items()}


def save_work(folder: Folder, work: Mapping[str, Work]) -> None:
    write_ledger(folder, {key: ledger_item(key, value) for key, value in work.items()})


def ledger_item(trial_id: str, work: Work) -> str:
    """One trial in the JSON of ledger.json."""
    return f'"{trial_id}": {{"steps": {work.steps}, "seconds": {json.dumps(work.seconds)}}}'


def write_ledger(folder: Folder, items: Mapping[str, str]) -> None:
    """Write the ledger from the items of its trials, of which the writer keeps those that do not
    change: it is written at the end of every attempt, and holds all trials of the sweep.
    """
    folder.write(LEDGER, f"{{{', '.join(items.values())}}}".encode())


class Ledger:
    """Reservations and spending of one sweep, in the unit of its budget. Not thread-safe: one
    broker owns it.

    >>> ledger = Ledger(limit=10)
    >>> ledger.reserve("a", 6), ledger.reserve("b", 6)
    (True, False)
    >>> ledger.settle("a", 2)
    >>> ledger.reserve("b", 6), ledger.remaining
    (True, 2.0)
    """

    def __init__(self, limit: float = math.inf, spent: Mapping[str, float] | None = None):
        self.limit = limit
        self._spent = dict(spent or {})
        self._reserved: dict[str, float] = {}

    @property
    def spent(self) -> float:
        return math.fsum(self._spent.values())

    @property
    def reserved(self) -> float:
        return math.fsum(self._reserved.values())

    @property
    def remaining(self) -> float:
        """What a new reservation may take; 0 when earlier spending is already above a limit that
        was lowered since.
        """
        return max(0.0, self.limit - math.fsum([*self._spent.values(), *self._reserved.values()]))

    def spent_by(self, key: str) -> float:
        return self._spent.get(key, 0.0)

    def to_dict(self) -> dict[str, float]:
        return dict(self._spent)

    def reserve(self, key: str, amount: float) -> bool:
        """Set `amount` aside for `key`; False, and nothing changed, when the budget does not have
        it.
        """
        if key in self._reserved:
            raise RuntimeError(f"trial {key} holds a reservation already; settle it first")
        return self._hold(key, amount)

    def extend(self, key: str, amount: float) -> bool:
        """Raise the reservation of `key` to `amount` in all; False, and nothing changed, when the
        budget does not have it.
        """
        return amount <= self._reserved[key] or self._hold(key, amount)

    def _hold(self, key: str, amount: float) -> bool:
        others = (reserved for holder, reserved in self._reserved.items() if holder != key)
        if math.fsum([*self._spent.values(), *others, amount]) > self.limit:
            return False
        self._reserved[key] = amount
        return True

    def settle(self, key: str, used: float) -> None:
        """End the reservation of `key` and charge what it really used."""
        self._reserved.pop(key)
        self.charge(key, used)

    def charge(self, key: str, used: float) -> None:
        """Charge what was spent without a reservation of this ledger."""
        self._spent[key] = self.spent_by(key) + used
