"""What a Ray Train worker does here: trial after trial, until the broker closes.

The decision that shaped this file: a worker group is resident. Starting a Ray Train run takes seconds of process start and imports,
many small trials take not much longer themselves, so one run serves them all: rank 0 takes a lease from the broker and broadcasts
it, all ranks train it with `trial.run` (the process group that Ray Train made is the one they use), rank 0 reports.
A worker that is killed takes its group with it; Ray Train starts the group again, the broker serves the same lease again, and the
trial continues from its checkpoint.

Left out: which trial comes next and what an outcome means (`sweep/broker.py`).
"""

from __future__ import annotations

import time
from typing import Any

import ray
import torch.distributed as dist
from ray.actor import ActorHandle

from raysparse.sweep.attempt import attempt
from raysparse.sweep.broker import Lease, NoLease, Report
from raysparse.train import ranks

IDLE = 0.2  # seconds between questions to a broker that has no trial now


class SpoiltGroupError(RuntimeError):
    """A trial ended by an error while other ranks were in the middle of it: only a new group is in a known state."""


def serve(config: dict[str, Any]) -> None:
    """The train loop of Ray Train: serve `config["slot"]` with leases of the actor `config["broker"]`."""
    broker: ActorHandle[Any] = config["broker"]
    slot: str = config["slot"]
    nodes = _gather(ray.get_runtime_context().get_node_id())
    while (lease := _next_lease(broker, slot, nodes)) is not NoLease.CLOSED:
        if isinstance(lease, Lease):
            _train(broker, slot, lease)
        else:
            time.sleep(IDLE)


def _next_lease(broker: ActorHandle[Any], slot: str, nodes: list[str]) -> Lease | NoLease:
    """What rank 0 was given, on every rank."""
    found: list[Any] = [ray.get(broker.take.remote(slot, nodes)) if ranks.rank() == 0 else None]
    if ranks.count() > 1:
        dist.broadcast_object_list(found, src=0)
    lease: Lease | NoLease = found[0]
    return lease


def _train(broker: ActorHandle[Any], slot: str, lease: Lease) -> None:
    def tell(report: Report) -> str:
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
