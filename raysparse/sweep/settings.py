"""Where and how a sweep runs. A file of its own, so that executors and whoever calls them share it
without a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raysparse.record import Record, require, require_choice

Executor = Literal["ray", "inline"]


@dataclass(frozen=True, kw_only=True)
class Settings(Record):
    """Where and how a sweep runs: nothing here changes a result.

    address: of a Ray cluster to join ("auto", "ray://...", "host:port"); empty starts one on this
    machine. slots: trials at once; 0 takes as many as the cluster's CPUs (or GPUs) hold. gpus: of
    each worker, in (0, 1] for small models that share one; 0 trains on CPUs.
    """

    executor: Executor = "ray"
    address: str = ""
    slots: int = 0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        require_choice("executor", self.executor, Executor)
        require(self.slots >= 0, "slots", self.slots, "0 (as many as fit) or more")
        require(
            0.0 <= self.gpus <= 1.0, "gpus", self.gpus, "0 (train on CPUs) or a share of one GPU per worker, at most 1"
        )
        if self.executor == "inline" and self.address:
            raise ValueError(
                f"--address is {self.address!r} but the inline executor uses no cluster; leave one of them out"
            )
