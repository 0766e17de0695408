"""The broker as a Ray actor: it also knows machines, and shows itself. A file of its own, so that
its process imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysparse.sweep.broker import Broker, Job, Lease, NoLease
from raysparse.sweep.snapshot import Snapshot, snapshot


class BrokerActor(Broker):
    """One per sweep. A slot names the nodes of its workers when it asks for a trial."""

    def __init__(self, job: Job):
        super().__init__(job)
        self._nodes: dict[str, list[str]] = {}

    def take(self, slot: str, nodes: Sequence[str] = (), **_: Any) -> Lease | NoLease:
        before = self._nodes.get(slot, [])
        gone = before != list(nodes) and not set(before) <= living_nodes()
        self._nodes[slot] = list(nodes)
        return super().take(slot, preempted=gone)

    def snapshot(self) -> Snapshot:
        return snapshot(self)


def living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def start_broker(job: Job) -> ActorHandle[Any]:
    """The broker of a job, in a process of its own on the driver's machine: one that goes away with
    another machine would end the sweep, and one that is cut off would go on writing.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(BrokerActor)
    handle: ActorHandle[Any] = actor.options(scheduling_strategy=here).remote(job)
    return handle
