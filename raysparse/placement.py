"""Where and in what portions a trial runs. None of it is part of a trial: it may differ between two
attempts of one, and changes its numbers in the last bits at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raysparse.record import Record, require, require_choice

Recompute = Literal["auto", "none", "mlp", "layer"]
Keep = Literal["weights", "state", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Placement(Record):
    """Where and in what portions a trial runs; it never changes what the trial is.

    micro_batch: sequences in a forward pass of a worker (the last pass may have fewer); 0: as many
    as a GPU holds, on a CPU the whole share. recompute: what a backward pass makes again, nothing,
    the MLPs' inner tensors, or all but the input of a layer; auto: the least that a GPU needs.
    """

    workers: int = 1
    micro_batch: int = 0
    device: str = "cpu"
    threads: int = 1  # CPU threads of each worker; sums depend on it in the last bit, so a sweep keeps it fixed
    checkpoint_seconds: float = 30.0  # between checkpoints of a running trial: what an interruption costs at most
    compile: bool = False  # torch.compile of the layers, between their sparse products
    resident: bool = False  # keep every dense weight that a product needs, not one at a time: memory for time
    recompute: Recompute = "auto"
    device_share: float = 1.0  # of a GPU's memory, for this worker
    keep: Keep = "weights"  # of a trial that has ended, in its checkpoint

    def __post_init__(self) -> None:
        require(self.workers >= 1, "placement.workers", self.workers, "at least 1")
        require(self.micro_batch >= 0, "placement.micro_batch", self.micro_batch, "0 (whole share) or more")
        require(self.threads >= 1, "placement.threads", self.threads, "at least 1")
        require(self.checkpoint_seconds >= 0, "placement.checkpoint_seconds", self.checkpoint_seconds,
                "0 (every step) or more")  # fmt: skip
        require_choice("placement.recompute", self.recompute, Recompute)
        require_choice("placement.keep", self.keep, Keep)
        require(0.0 < self.device_share <= 1.0, "placement.device_share", self.device_share, "a fraction in (0, 1]")
        if self.compile and self.recompute in ("mlp", "layer"):
            found = f"placement.recompute is {self.recompute!r} and placement.compile is on"
            raise ValueError(f"{found}: compiled code ends at every sparse product; turn one of them off")
