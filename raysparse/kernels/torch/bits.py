"""Bitmasks in plain torch: bases, and blocks that leave a mask.

Nothing here makes a tensor as long as the dense matrix: bits are read a portion at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from raysparse.kernels.bitmask import GROUP, WORD, pack, unpack

PORTION = 8 * GROUP  # blocks looked at together


def portions(total: int, size: int | None = None) -> Iterator[tuple[int, int]]:
    """[start, stop) of every portion; a matrix of no blocks has one, empty."""
    size = size or PORTION
    for start in range(0, max(total, 1), size):
        yield start, min(start + size, total)


def bases(mask: Tensor) -> Tensor:
    """Active blocks before every group of 1,024, int32 (groups,)."""
    groups = []
    for start in range(0, mask.numel(), GROUP):  # 32 groups at a time, whose bits become bytes
        part = mask[start : start + GROUP]
        part = torch.nn.functional.pad(part, (0, -part.numel() % (GROUP // WORD)))
        groups.append(unpack(part, part.numel() * WORD).view(-1, GROUP).sum(dim=1))
    counts = torch.cat(groups)
    return (counts.cumsum(0) - counts).to(torch.int32)


def survivors(mask: Tensor, bases: Tensor, total: int, dropped: Tensor) -> Tensor:
    """The mask without the active blocks at the compact positions where `dropped`, bool
    (active,).
    """
    left = mask.clone()
    remove(left, total, dropped)
    return left


def remove(mask: Tensor, total: int, dropped: Tensor) -> None:
    """Take the blocks at those compact positions out of the mask, in place."""
    seen = 0
    for start, stop in portions(total):
        bits = bits_of(mask, start, stop)
        count = int(bits.sum())
        put_bits(mask, start, bits.masked_scatter(bits, ~dropped[seen : seen + count]))
        seen += count


def stayed(regrown: Tensor, mask: Tensor, total: int, active: int) -> Tensor:
    """For every one of the `active` blocks of the new `mask`, in order, whether it is none of the
    `regrown`, bool (active,).
    """
    found = torch.empty(active, dtype=torch.bool, device=mask.device)
    seen = 0
    for start, stop in portions(total):
        part = bits_of(regrown, start, stop)[bits_of(mask, start, stop)]
        torch.logical_not(part, out=found[seen : seen + len(part)])
        seen += len(part)
    return found


def bits_of(mask: Tensor, start: int, stop: int) -> Tensor:
    return unpack(mask[start // WORD : -(-stop // WORD)], stop - start)


def put_bits(mask: Tensor, start: int, active: Tensor) -> None:
    """Overwrite the mask from block `start` on, a multiple of 32."""
    words = pack(active)
    mask[start // WORD : start // WORD + len(words)] = words
