"""This process among the workers of one trial. Without an initialised process group it is the only
one, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


def join(backend: str, address: str, number: int, count: int, timeout: timedelta) -> None:
    """Become rank `number` of the `count` that meet at `address`, tcp://HOST:PORT or file://PATH;
    `torch.distributed.destroy_process_group` ends it.

    Functions of torch.distributed.nn have the group of the moment of their import as a default
    value. Imported inside a group, as recomputation does, they would keep it, its connections and
    its threads after its end, and a thread that lets go of a tensor while Python shuts down takes
    the process with it (SIGABRT). So they are imported before.
    """
    import torch.distributed.nn.functional  # noqa: F401

    dist.init_process_group(backend, init_method=address, rank=number, world_size=count, timeout=timeout)


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(total: int) -> tuple[int, int]:
    """This rank's [start, stop) of `total` rows: contiguous, sizes differ by at most one."""
    return total * rank() // count(), total * (rank() + 1) // count()


def sum_in_place(tensors: Iterable[Tensor]) -> None:
    """Add the tensors of all ranks, in place, in every rank."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def any_true(flag: bool, device: torch.device | str) -> bool:
    """Whether the flag is true in any rank. Every rank must call it."""
    if count() == 1:
        return flag
    total = torch.tensor(int(flag), device=device)
    dist.all_reduce(total)
    return bool(total.item())


def all_equal(number: int, device: torch.device | str) -> bool:
    """Whether every rank has the same number, 0 <= number < 2**62. Every rank must call it."""
    if count() == 1:
        return True
    ends = torch.tensor([number, -number], dtype=torch.int64, device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    return bool((ends.sum() == 0).item())
