"""A plan: the trials of a sweep, the budget they run under, and what they will cost. Nothing runs
that was not planned.

A plan is a frozen list of trial specs, whoever made it - the `grid` here, a search, or a person
with a text editor - and the run folder keeps it as `plan.json`. A folder belongs to the plan it was
begun with: the plan may grow (the same trials and more) and its budget may change, but a plan that
lost or changed a trial is refused with the difference named, so that one results table never mixes
two questions.

Left out: running (`runner`), and counting what a single trial costs (`raysparse.counts`).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from raysparse import counts, faults, memory
from raysparse.files import Folder, checksum
from raysparse.placement import Placement
from raysparse.record import Record, many, require
from raysparse.run_folder import PLAN
from raysparse.spec import TrialSpec
from raysparse.sweep import planners
from raysparse.sweep.budget import Budget, Work, price
from raysparse.sweep.halving import Halving
from raysparse.sweep.planners.base import Planner


@dataclass(frozen=True, kw_only=True)
class Throughput(Record):
    """How fast one worker trains: seconds = seconds_per_trial + steps * seconds_per_step + executed
    FLOPs / flops_per_second.

    An evaluation executes a third of the FLOPs of training on as many tokens. The defaults were
    fitted to the laptop ladder on one thread of a 2-core x86 server (docs/experiments.md); `source`
    says where others came from.
    """

    flops_per_second: float = 5e10
    seconds_per_step: float = 0.008
    seconds_per_trial: float = 0.5
    source: str = "a 2-core CPU, one thread a trial"

    def seconds(self, spec: TrialSpec, *, device: str) -> float:
        """Wall seconds of the whole trial on one worker of this device."""
        per_token = counts.flops(spec, device=device)[1] / spec.tokens
        executed = per_token * (spec.tokens + spec.evaluations * spec.data.validation_tokens / 3)
        return self.seconds_per_trial + spec.steps * self.seconds_per_step + executed / self.flops_per_second


# Of a plan for GPUs that is made where there is none: what an H100 does with a model of 130 million
# weights, estimated (instructions and bytes counted, not run).
ELSEWHERE = Throughput(
    flops_per_second=2e14, seconds_per_step=0.05, source="an estimate for an H100: no GPU here to measure"
)

# The last plan that was read, by the hash of its file: ten thousand trials take seconds to read.
_LOADED: dict[str, Plan] = {}


@dataclass(frozen=True)
class Cost:
    """What trials cost together: tokens trained, FLOPs, device-seconds, and the peak bytes of the
    hungriest worker.
    """

    trials: int = 0
    tokens: int = 0
    flops_active: float = 0.0
    flops_executed: float = 0.0
    device_seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.trials + other.trials,
            self.tokens + other.tokens,
            self.flops_active + other.flops_active,
            self.flops_executed + other.flops_executed,
            self.device_seconds + other.device_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """Trials with distinct ids, in the order in which they are shown, or a planner that proposes
    them; then `specs` are those proposed so far.

    Raises ValueError when it has neither, or names a trial twice.
    """

    is_shared = False

    specs: tuple[TrialSpec, ...] = ()
    placement: Placement = Placement()
    budget: Budget = Budget()
    throughput: Throughput = Throughput()
    planner: Planner | None = None
    stopping: Halving | None = None  # of trials that fall behind others of the same budget
    device_bytes: int = 0  # memory of the device that a worker trains on; 0: not known, each worker asks its own

    def __post_init__(self) -> None:
        require(len(self.specs) >= 1 or self.planner is not None, "plan.specs", self.specs, "at least one trial")
        ids = self.trial_ids
        twice = {one for one, times in Counter(ids).items() if times > 1}
        if twice:
            names = ", ".join(spec.name or spec.trial_id for spec in self.specs if spec.trial_id in twice)
            raise ValueError(
                f"the plan holds the same trial more than once ({names}); list each value of the grid once"
            )

    def to_dict(self) -> dict[str, Any]:
        planner = None if self.planner is None else planners.to_dict(self.planner)
        return {**super().to_dict(), "planner": planner}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        if isinstance(values, dict) and values.get("planner") is not None:
            values = {**values, "planner": planners.from_dict(values["planner"])}
        return super().from_dict(values)

    def continued(self, folder: Folder) -> Plan:
        """This plan with what its planner has proposed in the run folder already."""
        held = None if self.planner is None else load_if_there(folder)
        if held is None:
            return self
        here = set(self.trial_ids)
        return self.replace(specs=(*(s for s in held.specs if s.trial_id not in here), *self.specs))

    @property
    def trial_ids(self) -> tuple[str, ...]:
        return tuple(spec.trial_id for spec in self.specs)

    def cost(self, spec: TrialSpec) -> Cost:
        active, executed = counts.flops(spec, device=self.placement.device)
        seconds = self.seconds(spec) * self.placement.workers
        return Cost(1, spec.tokens, active, executed, seconds, self.peak_bytes(spec))

    def seconds(self, spec: TrialSpec) -> float:
        """Planned wall seconds of a trial; looked up by whoever draws a running sweep."""
        if spec.trial_id not in self._seconds:
            self._seconds[spec.trial_id] = self.throughput.seconds(spec, device=self.placement.device)
        return self._seconds[spec.trial_id]

    @functools.cached_property
    def _seconds(self) -> dict[str, float]:
        return {}

    def peak_bytes(self, spec: TrialSpec) -> int:
        """Predicted bytes of a worker; trials that differ in data and seed alone have the same."""
        key = spec.model, spec.sparsity, spec.optimizer, spec.precision
        if key not in self._peaks:
            self._peaks[key] = memory.predicted(spec, self.fitted(spec)).total
        return self._peaks[key]

    @functools.cached_property
    def _peaks(self) -> dict[tuple[Any, ...], int]:
        return {}

    def fitted(self, spec: TrialSpec) -> Placement:
        """The placement with the micro-batch and the recomputation that the trial will have."""
        return memory.fitted(spec, self.placement, self.device_bytes)

    def total(self, specs: Sequence[TrialSpec] | None = None) -> Cost:
        """The cost of all trials, or of some of them."""
        return sum((self.cost(spec) for spec in (self.specs if specs is None else specs)), Cost())

    def price(self, spec: TrialSpec, from_step: int = 0) -> float:
        """What a trial costs in the unit of the budget, from a step to its end."""
        if from_step:
            return self._price(spec, from_step)
        if spec.trial_id not in self._prices:
            self._prices[spec.trial_id] = self._price(spec, 0)
        return self._prices[spec.trial_id]

    def _price(self, spec: TrialSpec, from_step: int) -> float:
        seconds = self.seconds(spec) * self.placement.workers
        left = 1.0 - from_step / spec.steps
        return self.price_of(spec, Work(spec.steps - from_step, seconds * left))

    def price_of(self, spec: TrialSpec, work: Work) -> float:
        """What some work on a trial costs in the unit of the budget."""
        return price(spec, self.budget.unit, work, device=self.placement.device)

    @functools.cached_property
    def _prices(self) -> dict[str, float]:
        return {}

    def affordable(self, begun: Mapping[TrialSpec, int], remaining: float) -> list[TrialSpec]:
        """The trials (with the step each continues from) that fit into `remaining`, so that a tight
        budget buys as many rows as it can; costliest first, so that slots finish together.
        """
        prices = {spec: self.price(spec, step) for spec, step in begun.items()}
        chosen, left = [], remaining
        for spec in sorted(prices, key=prices.__getitem__):
            if self.budget.admits(self.price(spec)) and prices[spec] <= left:
                chosen.append(spec)
                left -= prices[spec]
        return chosen[::-1]

    def check(self, folder: Folder) -> None:
        """Raise ValueError when the run folder was begun with another plan; a plan that has grown
        since is not another.
        """
        held = load_if_there(folder)
        if held is not None and (difference := self.difference_from(held)):
            raise ValueError(
                f"{folder.uri} holds the results of another plan: {difference}; choose another --name for this sweep"
            )

    def save(self, folder: Folder) -> None:
        """Write `plan.json`; raises as `check` does."""
        self.check(folder)
        folder.write_json(PLAN, self.to_dict())
        faults.point("plan.saved")

    def difference_from(self, held: Plan) -> str:
        """What keeps this plan from continuing `held`, in words; empty when every trial of `held`
        is in this one.
        """
        kept = set(self.trial_ids)
        lost = [spec for spec in held.specs if spec.trial_id not in kept]
        places = [
            f"placement.{key} is {getattr(held.placement, key)!r} there and {getattr(self.placement, key)!r} here"
            for key in (
                "workers",
                "threads",
            )  # they change sums in the last bit, so they stay as they are within a sweep
            if getattr(held.placement, key) != getattr(self.placement, key)
        ]
        if held.planner != self.planner:
            places.append("its planner asks another question")
        if not lost:
            return "; ".join(places)
        there, here = _values(held.specs), _values(self.specs)
        changed = [
            f"{key} is {_listed(there[key])} there and {_listed(here[key])} here"
            for key in there
            if not there[key] <= here.get(key, set())
        ]
        return "; ".join(
            [*places, *(changed or [f"{len(lost)} of its trials are missing here, {lost[0].name} for one"])]
        )


def load(folder: Folder) -> Plan:
    """The plan of a run folder. Raises ValueError when there is none."""
    held = load_if_there(folder)
    if held is None:
        raise ValueError(
            f"{folder.uri} holds no {PLAN}, so it is not a run folder; check the path, or --name and --storage"
        )
    return held


def load_if_there(folder: Folder) -> Plan | None:
    """The plan of a run folder, None when there is none."""
    try:
        data = folder.read(PLAN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    key = checksum(data)
    if key not in _LOADED:
        _LOADED.clear()
        with many():
            _LOADED[key] = Plan.from_dict(folder.parsed(PLAN, data))
    return _LOADED[key]


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _values(specs: Sequence[TrialSpec]) -> dict[str, set[Any]]:
    found: dict[str, set[Any]] = {}
    for key, value in itertools.chain.from_iterable(_flat(spec.identity()) for spec in specs):
        found.setdefault(key, set()).add(value)
    return found


def _listed(values: set[Any]) -> str:
    return ", ".join(sorted(f"{v:g}" if isinstance(v, float) else str(v) for v in values))
