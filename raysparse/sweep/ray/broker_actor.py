"""The broker as a Ray actor: it also knows machines, and shows itself. A file of its own, so that
its process imports no torch.

It looks for machines that are about to be taken away for all slots at once. Ray Train would start a
process for each slot to watch for them (`ray.train.get_preemption_info`), and its workers would
have to meet to hear of it; here the news comes with the answer to a beat.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray._private.state import state as cluster_state
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysparse.sweep import lease as leases
from raysparse.sweep import lock
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.lease import Claim, Lease, NoLease
from raysparse.sweep.snapshot import Snapshot, snapshot

LOOK_EVERY = 1.0  # seconds between questions to Ray about its nodes


class BrokerActor(Broker):
    """One per sweep. A slot names the nodes of its workers when it asks for a trial."""

    def __init__(self, job: Job, *, lease_seconds: float, patience: float):
        self._held = lock.books(job.folder)
        super().__init__(job, lease_seconds=lease_seconds, patience=patience)
        self._nodes: dict[str, list[str]] = {}
        self._placed: dict[str, PlacementGroup] = {}
        self._keepers: dict[str, ActorHandle[Any]] = {}
        self._over: set[str] = set()
        self._leaving: set[str] = set()
        self._looked_at = 0.0

    def serve(self, slot: str, group: str, nodes: Sequence[str]) -> Lease | NoLease:
        """`take` for a group whose workers stand on these nodes, one for each worker."""
        if self.slots.is_former(slot, group):
            return NoLease.CLOSED
        before, self._nodes[slot] = self._nodes.get(slot, []), list(nodes)
        gone = not set(before) <= living_nodes()
        resized = bool(before) and len(before) != len(nodes)
        if resized and not gone and slot in self.slots.held:  # Ray has ended the workers that were too few
            self.entries[self.slots.held[slot]].expires_at = -math.inf
        return self.take(
            slot,
            group=group,
            workers=len(nodes),
            preempted=resized or gone,
            leaving=self._is_leaving(slot),
        )

    def beat(self, claim: Claim) -> bool:
        super().beat(claim)
        return self._is_leaving(self.entries[claim.trial_id].slot)

    def lost(self, slot: str, status: str = "failed", reason: str = "") -> None:
        """Where an error and the loss of a machine coincide, the loss is the cause."""
        is_gone = status == "failed" and not set(self._nodes.get(slot, ())) <= living_nodes()
        super().lost(slot, "preempted" if is_gone else status, reason)

    def placed(self, slot: str, group: PlacementGroup) -> None:
        """Note what the workers of a slot stand on."""
        self._placed[slot] = group

    def place_of(self, slot: str) -> PlacementGroup | None:
        """What the last workers of a slot stood on."""
        return self._placed.pop(slot, None)

    def kept_by(self, slot: str, keeper: ActorHandle[Any]) -> None:
        """Note which process keeps the workers of a slot."""
        self._keepers[slot] = keeper
        if slot in self._over:
            ray.kill(keeper)

    def end(self, slot: str) -> None:
        """End a slot that has not ended by itself, now or as soon as it is there."""
        self._over.add(slot)
        if slot in self._keepers:
            ray.kill(self._keepers[slot])

    def snapshot(self) -> Snapshot:
        return snapshot(self)

    def _is_leaving(self, slot: str) -> bool:
        if time.monotonic() - self._looked_at > LOOK_EVERY:
            self._leaving, self._looked_at = set(cluster_state.get_draining_nodes()), time.monotonic()
        return bool(self._leaving & set(self._nodes.get(slot, ())))


def living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def start_broker(job: Job, *, patience: float) -> ActorHandle[Any]:
    """The broker of a job, in a process of its own on the driver's machine: one that goes away with
    another machine would end the sweep, and one that is cut off would go on writing.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(BrokerActor)
    placed = actor.options(scheduling_strategy=here)
    handle: ActorHandle[Any] = placed.remote(job, lease_seconds=leases.SECONDS, patience=patience)
    return handle
