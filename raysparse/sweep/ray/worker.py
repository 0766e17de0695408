"""What a Ray Train worker does here: trial after trial, until the broker closes.

A worker group is resident. Starting a Ray Train run costs 14 seconds of CPU in processes and
imports, a small trial hardly more, so one run serves them all: rank 0 takes a lease from the broker
and broadcasts it, all ranks train it in the process group that Ray Train made, and rank 0 says how
it ended. Trial after trial costs 0.1 seconds that way. A worker that is killed takes its group with
it; Ray Train starts the group again, the broker serves the same lease again, and the trial
continues from its checkpoint.

Left out: which trial comes next, what an outcome means, and what an attempt is (`sweep`, which
hands its function over).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ray
import torch.distributed as dist
from ray.actor import ActorHandle

from raysparse.results import Outcome
from raysparse.spec import TrialSpec
from raysparse.train import ranks

IDLE = 0.2  # seconds between questions to a broker that has no trial now
WAIT, CLOSED = "wait", "closed"  # what a broker says instead of a lease

Tell = Callable[[Mapping[str, Any]], str]  # a report -> a reason to stop, or ""


class Lease(Protocol):
    """An attempt at a trial, as far as this file needs to know it."""

    @property
    def spec(self) -> TrialSpec: ...


class SpoiltGroupError(RuntimeError):
    """A trial ended by an error while other ranks were in the middle of it: only a new group is in
    a known state.
    """


def serve(config: dict[str, Any]) -> None:
    """The train loop of Ray Train.

    config: `broker`, an actor with take, progress and finish (`sweep/broker.py`); `slot`, the name
    of this worker group; `attempt`, a function from a lease and a `Tell` to an Outcome, which
    raises nothing.
    """
    broker: ActorHandle[Any] = config["broker"]
    slot: str = config["slot"]
    nodes = _gather(ray.get_runtime_context().get_node_id())
    while (lease := _next_lease(broker, slot, nodes)) != CLOSED:
        if lease == WAIT:
            time.sleep(IDLE)
        else:
            _train(broker, slot, lease, config["attempt"])


def _next_lease(broker: ActorHandle[Any], slot: str, nodes: list[str]) -> Any:
    """The lease that rank 0 was given, or WAIT or CLOSED, on every rank."""
    found: list[Any] = [ray.get(broker.take.remote(slot, nodes)) if ranks.rank() == 0 else None]
    if ranks.count() > 1:
        dist.broadcast_object_list(found, src=0)
    return found[0]


def _train(broker: ActorHandle[Any], slot: str, lease: Lease, attempt: Callable[[Lease, Tell], Outcome]) -> None:
    def tell(report: Mapping[str, Any]) -> str:
        return str(ray.get(broker.progress.remote(lease.spec.trial_id, report)))

    outcome = attempt(lease, tell)
    is_error = outcome.status in ("failed", "out_of_memory")
    if ranks.rank() == 0 or is_error:  # whoever fails says so first: what the others see is a lost connection
        ray.get(broker.finish.remote(slot, lease.spec.trial_id, outcome))
    if is_error and ranks.count() > 1:
        raise SpoiltGroupError(f"trial {lease.spec.trial_id}: {outcome.reason}")


def _gather(value: str) -> list[str]:
    """The values of all ranks, on every rank."""
    found = [value] * ranks.count()
    if ranks.count() > 1:
        dist.all_gather_object(found, value)
    return found
