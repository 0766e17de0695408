"""What a Ray Train worker does here: trial after trial, until the broker closes.

A worker group is resident. Starting a Ray Train run costs 14 seconds of CPU in processes and
imports, a small trial hardly more, so one run serves them all: rank 0 takes a lease from the broker
and broadcasts it, all ranks train it in the process group that Ray Train made, and rank 0 says how
it ended. Trial after trial costs 0.1 seconds that way. A worker that is killed takes its group with
it; Ray Train starts the group again, the broker serves the same trial again, and it continues from
its checkpoint.

Rank 0 beats for its lease from a thread of its own, since a step may take long. A worker that was
stopped or cut off for longer than its lease finds itself refused, leaves the trial, and asks for
another; if its group was replaced meanwhile, it is told to go home. Left out: which trial comes
next, and what an outcome means (`broker`).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from raysparse.results import Outcome
from raysparse.sweep.attempt import attempt
from raysparse.sweep.lease import BEATS, About, Claim, Fence, Lease, LeaseLostError, NoLease, Report
from raysparse.train import ranks

IDLE = (0.02, 0.2)  # seconds between questions to a broker that has no trial now, doubled up to the last

log = logging.getLogger(__name__)


class SpoiltGroupError(RuntimeError):
    """A trial ended by an error while other ranks were in the middle of it: only a new group is in
    a known state.
    """


class RemoteDesk:
    """The broker's actor as a holder of a lease sees it. One that does not answer for the time of a
    lease is gone.
    """

    def __init__(self, broker: ActorHandle[Any], seconds: float):
        self.broker, self.seconds = broker, seconds

    def beat(self, claim: Claim) -> bool:
        return bool(self._answer(self.broker.beat.remote(claim)))

    def progress(self, claim: Claim, report: Report) -> str:
        return str(self._answer(self.broker.progress.remote(claim, report)))

    def publish(self, claim: Claim, about: About | None) -> None:
        self._answer(self.broker.publish.remote(claim, about))

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        self._answer(self.broker.finish.remote(claim, outcome))

    def _answer(self, call: Any) -> Any:
        try:
            return ray.get(call, timeout=self.seconds)
        except (GetTimeoutError, RayActorError) as error:
            raise LeaseLostError(f"the broker did not answer for {self.seconds:g} s") from error
        except RayTaskError as error:
            if isinstance(error.cause, LeaseLostError):
                raise LeaseLostError(str(error.cause)) from None
            raise


def serve(config: dict[str, Any]) -> None:
    """The train loop of Ray Train.

    config: `broker`, the actor of `sweep/ray/broker_actor.py`; `slot`, the name of this worker
    group.
    """
    broker: ActorHandle[Any] = config["broker"]
    group = secrets.token_hex(4)
    nodes, pause = _gather(ray.get_runtime_context().get_node_id()), IDLE[0]
    while (lease := _next_lease(broker, config["slot"], group, nodes)) is not NoLease.CLOSED:
        if isinstance(lease, Lease):
            _train(broker, lease)
            pause = IDLE[0]
        else:
            time.sleep(pause)
            pause = min(2 * pause, IDLE[1])
    dist.destroy_process_group()


def _next_lease(broker: ActorHandle[Any], slot: str, group: str, nodes: list[str]) -> Lease | NoLease:
    """What rank 0 was given, on every rank."""
    found: list[Any] = [ray.get(broker.serve.remote(slot, group, nodes)) if ranks.rank() == 0 else None]
    if ranks.count() > 1:
        dist.broadcast_object_list(found, src=0)
    given: Lease | NoLease = found[0]
    return given if isinstance(given, Lease) else NoLease(given)


def _train(broker: ActorHandle[Any], lease: Lease) -> None:
    desk = RemoteDesk(broker, lease.seconds)
    fence = Fence(desk, lease)
    with beating(fence) if ranks.rank() == 0 else contextlib.nullcontext():
        outcome = attempt(lease, fence, fence.tell)
    is_over = outcome.status in ("failed", "out_of_memory", "preempted")
    if fence.is_lost:
        log.warning("trial %s is left to another worker: %s", lease.spec.trial_id, outcome.reason)
    elif ranks.rank() == 0 or outcome.status in ("failed", "out_of_memory"):  # whoever fails says so first
        with contextlib.suppress(LeaseLostError):  # the trial is another worker's, and so is the row
            desk.finish(lease.claim, outcome)
    if is_over and ranks.count() > 1:
        raise SpoiltGroupError(f"trial {lease.spec.trial_id}: {outcome.reason}")


@contextlib.contextmanager
def beating(fence: Fence) -> Iterator[None]:
    """Beat for a lease inside the `with`."""
    ended = threading.Event()

    def beat() -> None:
        with contextlib.suppress(LeaseLostError):  # whoever writes next hears of it
            while not ended.wait(fence.seconds / BEATS):
                fence.beat()

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _gather(value: str) -> list[str]:
    """The values of all ranks, on every rank."""
    found = [value] * ranks.count()
    if ranks.count() > 1:
        dist.all_gather_object(found, value)
    return found
