"""What the sections of `gpu_check` share: the device, the sizes that fit it, a clock, and a row.

A section is a generator of tasks, (what it is, a function that measures it), so that the script can
write a row the moment it is there, go on after one that fails, and stop before one for which no
time is left.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from raysparse.kernels import bitmask, ops, philox

Row = dict[str, Any]
Task = tuple[Row, Callable[[], Row]]
CLOCKS = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


class Bench:
    """The device, the sizes that fit it, and a clock."""

    def __init__(self, *, smoke: bool):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"
        self.tokens = self.pick(16_384, 40)
        self.densities = self.pick((0.5, 0.25, 0.125, 0.0625), (0.25,))

    def pick(self, full: Any, smoke: Any) -> Any:
        return smoke if self.smoke else full

    def forget_peak(self) -> None:
        if not self.smoke:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes allocated at most since `forget_peak`, once all work is done."""
        if self.smoke:
            return 0
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def ms(self, function: Callable[[], Any]) -> float | None:
        """Median milliseconds on the device, with a cold cache; None in the interpreter, where time
        means nothing.
        """
        if self.smoke:
            function()
            return None
        from triton.testing import do_bench

        return float(do_bench(function, warmup=10, rep=40, return_mode="median"))

    def mask(self, blocks: int, density: float, *, rows: int = 0) -> tuple[Tensor, int]:
        """`blocks` x density active blocks at random, made as a run makes them; with `rows`, as
        many in each row of blocks.
        """
        active = max(1, round(density * blocks))
        empty = torch.zeros(bitmask.words(blocks), dtype=torch.int32, device=self.device)
        key = philox.stream(blocks, active)
        if not rows:
            return ops.regrow_at_random(empty, blocks, active, key), active
        per_row = max(1, active // rows)
        return ops.regrow_in_rows(empty, empty, blocks, rows, per_row, key), per_row * rows

    def condition(self) -> Row:
        """The card's clocks, heat and power now, and the bandwidth of a copy, bytes read and
        written: what the rows that follow must be judged by.
        """
        source, target = torch.empty(2, self.pick(1 << 28, 1 << 10), device=self.device)
        ms = self.ms(lambda: target.copy_(source))
        return {"copy GB/s": ratio(2 * source.nbytes / 1e6, ms), CLOCKS: "" if self.smoke else clocks()}


def clocks() -> str:
    command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError as error:
        return f"not known: {error}"


def at_once(what: Row, function: Callable[[], Row]) -> Iterator[Task]:
    """A section of one task."""
    yield what, function


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def total(*times: float | None) -> float | None:
    return None if None in times else sum(t for t in times if t is not None)


def relative_error(mine: Tensor, wanted: Tensor) -> float:
    return float((mine.float() - wanted.float()).norm() / wanted.float().norm())
