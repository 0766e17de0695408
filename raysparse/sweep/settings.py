"""Where and how a sweep runs. A file of its own, so that executors and whoever calls them share it
without a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raysparse.record import Record, require, require_choice

Executor = Literal["ray", "inline"]
Scheduler = Literal["", "asha", "median"]


class RayLostError(ConnectionError):
    """The Ray that a sweep runs on is gone. Nothing that counts is: the run folder has it."""


@dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Where and how a sweep runs: nothing here changes the result of a trial that is completed.

    address: of a Ray cluster to join ("auto", "host:port"); empty starts one on this
    machine. slots: trials at once; 0 takes as many as the cluster's CPUs (or GPUs) hold. gpus: of
    each worker, in (0, 1] for small models that share one; 0 trains on CPUs. min_workers: a trial
    goes on with so many where machines went away, and with as many as planned when they are back,
    at the same global batch; 0 waits for all of them. scheduler: of Ray Tune, which may stop
    trials; empty for none. dashboard: of the Ray that is started here; without it Ray is up sooner.
    """

    executor: Executor = "ray"
    address: str = ""
    slots: int = 0
    gpus: float = 0.0
    min_workers: int = 0
    scheduler: Scheduler = ""
    dashboard: bool = True

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, Executor)
        require_choice("scheduler", self.scheduler, Scheduler)
        require(self.slots >= 0, "slots", self.slots, "0 (as many as fit) or more")
        require(
            0.0 <= self.gpus <= 1.0, "gpus", self.gpus, "0 (train on CPUs) or a share of one GPU per worker, at most 1"
        )
        require(self.min_workers >= 0, "min_workers", self.min_workers, "0 (all workers of a trial) or more")
        if self.executor == "inline" and self.min_workers:
            raise ValueError(
                f"--min-workers is {self.min_workers} but the inline executor has one worker; leave one of them out"
            )
        if self.executor == "inline" and self.address:
            raise ValueError(
                f"--address is {self.address!r} but the inline executor uses no cluster; leave one of them out"
            )
        if self.address and not self.dashboard:
            raise ValueError(
                f"--no-dashboard is for a Ray that is started here, but --address is {self.address!r}, which has its "
                f"own; leave one of them out"
            )
        if self.executor == "inline" and self.scheduler:
            raise ValueError(
                f"--scheduler is {self.scheduler!r} but Ray Tune's schedulers need Ray and the inline executor "
                f"starts none; leave one of them out, or use --halving, which works with both"
            )
