"""Which blocks of a matrix are active, at one bit a block: packing, unpacking, and ranks.

A mask is int32 words, block b in bit b % 32 of word b // 32; `base` holds the number of active
blocks before every group of 1,024 (32 words), so a kernel finds the place of a block's values from
one word, the words of its group and one base. That is 0.129 bytes a weight at most, against 4 d for
an index list. Where torch has to do on a CPU the list is made again whenever it is needed:
`numpy.unpackbits` and `flatnonzero` read a mask at 0.4-0.8 ns a block, 1-2 % of the product that
follows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WORD = 32  # blocks a word
GROUP = 1024  # blocks a base


def words(blocks: int) -> int:
    return -(-blocks // WORD)


def pack(active: Tensor) -> Tensor:
    """bool (blocks,) -> int32 (words,)."""
    if active.device.type == "cpu":
        packed = np.packbits(active.numpy(), bitorder="little")
        whole = np.zeros(4 * words(active.numel()), dtype=np.uint8)
        whole[: len(packed)] = packed
        return torch.from_numpy(whole.view("<i4").astype(np.int32, copy=False))
    padded = torch.nn.functional.pad(active, (0, -active.numel() % WORD)).view(-1, WORD).long()
    value = (padded << torch.arange(WORD, device=active.device)).sum(dim=1)
    return torch.where(value >= 2**31, value - 2**32, value).to(torch.int32)


def unpack(mask: Tensor, blocks: int) -> Tensor:
    """int32 (words,) -> bool (blocks,)."""
    if mask.device.type == "cpu":
        return torch.from_numpy(
            np.unpackbits(mask.numpy().view(np.uint8), count=blocks, bitorder="little").view(np.bool_)
        )
    bits = (mask.unsqueeze(1) >> torch.arange(WORD, device=mask.device, dtype=torch.int32)) & 1
    return bits.bool().view(-1)[:blocks]


def positions(mask: Tensor, blocks: int, active: int) -> Tensor:
    """Numbers of the active blocks, ascending, int64 (active,)."""
    if mask.device.type == "cpu" and 10 * active < blocks:
        return torch.from_numpy(_few_positions(mask.numpy().view(np.uint8)))
    bits = unpack(mask, blocks)
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(bits.numpy()))
    return torch.nonzero_static(bits, size=active).view(-1)  # no wait for the device: the count is known


def _few_positions(mask: np.ndarray) -> np.ndarray:
    """Numbers of the bits that are set, by bytes that are not 0. Of fewer than one in ten,
    `flatnonzero` looks for one after another, which takes two to three times as long.
    """
    byte = np.flatnonzero(mask != 0)
    place = np.flatnonzero(np.unpackbits(mask[byte], bitorder="little").view(np.bool_))
    found: np.ndarray = byte[place >> 3] * 8 + (place & 7)
    return found
