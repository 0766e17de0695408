"""Bitmasks in Triton: the small functions that the other kernels are made of, and bases, packing
and changes on the device.

Legend: block b of a matrix is bit b % 32 of int32 word b // 32; a group is 1,024 blocks; `bases`
counts the active blocks before every group, so a program that holds one group finds the compact
place of its blocks with a scan of 32 words and, within a word, a popcount of the bits below.

One program, one group. Programs exchange nothing but the counts of groups, summed by `torch.cumsum`
on the device: no atomics, no waiting for the device, and the same answer in every run.

Hazards. Triton's interpreter truncates when it narrows float32 to bfloat16 and computes wrongly in
bfloat16, so kernels compute in float32 and narrow through `cast`, which rounds by integers there.
There is no popcount in the language itself; written by halves, the compiler recognizes it and takes
the hardware's.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.bitmask import GROUP, words

GROUPS_AT_ONCE = 32  # groups that one program counts
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def cast(x, dtype: tl.constexpr):
    """x as `dtype`; float32 goes to bfloat16 by rounding to the nearest, ties to even, as the
    hardware does by itself.
    """
    if INTERPRETED and dtype == tl.bfloat16 and x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, rounded.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def popcount(word):
    """How many of 32 bits are set, by halves."""
    v = word.to(tl.uint32, bitcast=True)
    v = v - ((v >> 1) & 0x55555555)
    v = (v & 0x33333333) + ((v >> 2) & 0x33333333)
    return ((((v + (v >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def bits_of(mask, first, blocks, count: tl.constexpr):
    """int32 (count,): 1 where a block from `first` on is active, 0 where it is not or lies beyond
    the last.
    """
    block = first + tl.arange(0, count)
    return (tl.load(mask + block // 32, mask=block < blocks, other=0) >> (block % 32)) & 1


@triton.jit
def ranks_by_word(mask, bases, first, blocks, count: tl.constexpr):
    """Which of `count` blocks of one group are active, from `first` on (a multiple of 32), and the
    compact place of those that are; both (count / 32, 32), a row a word.
    """
    word = first // 32 + tl.arange(0, count // 32)
    words = tl.load(mask + word, mask=word * 32 < blocks, other=0)
    found = popcount(words)
    before = tl.load(bases + first // 1024) + tl.cumsum(found) - found
    if count < 1024:  # and the words of the group that come before
        earlier = first // 1024 * 32 + tl.arange(0, 32)
        before += tl.sum(popcount(tl.load(mask + earlier, mask=earlier < first // 32, other=0)))
    bit = (1 << tl.arange(0, 32))[None, :]
    return (words[:, None] & bit) != 0, before[:, None] + popcount(words[:, None] & (bit - 1))


@triton.jit
def ranks(mask, bases, first, blocks, count: tl.constexpr):
    """`ranks_by_word` as (count,), int32 ones for active blocks."""
    active, place = ranks_by_word(mask, bases, first, blocks, count)
    return tl.reshape(active.to(tl.int32), (count,)), tl.reshape(place, (count,))


@triton.jit
def store_bits(mask, bits, first, blocks, count: tl.constexpr):
    """Write int32 (count,) zeros and ones as the words of the blocks from `first` on."""
    lane = tl.arange(0, 32)[None, :]
    word = first // 32 + tl.arange(0, count // 32)
    tl.store(mask + word, tl.sum(tl.reshape(bits, (count // 32, 32)) << lane, axis=1), mask=word * 32 < blocks)


@triton.jit
def _count_groups(mask, counts, n_words, groups: tl.constexpr):
    group = tl.program_id(0) * groups + tl.arange(0, groups)
    word = group[:, None] * 32 + tl.arange(0, 32)[None, :]
    found = tl.sum(popcount(tl.load(mask + word, mask=word < n_words, other=0)), axis=1)
    tl.store(counts + group, found, mask=group * 32 < n_words)


@triton.jit
def _pack(flags, mask, blocks):
    first = tl.program_id(0) * 1024
    block = first + tl.arange(0, 1024)
    store_bits(mask, tl.load(flags + block, mask=block < blocks, other=0).to(tl.int32), first, blocks, 1024)


@triton.jit
def _exchange(mask, bases, dropped, regrown, out, blocks):
    first = tl.program_id(0) * 1024
    bits, place = ranks(mask, bases, first, blocks, 1024)
    bits &= 1 - tl.load(dropped + place, mask=bits != 0, other=0).to(tl.int32)
    if regrown is not None:
        bits |= bits_of(regrown, first, blocks, 1024)
    store_bits(out, bits, first, blocks, 1024)


def groups(blocks: int) -> int:
    """How many programs of one group cover the blocks."""
    return -(-blocks // GROUP)


def before(counts: Tensor) -> Tensor:
    """Sum of all earlier counts, int32, for int32 counts of groups."""
    return counts.cumsum(0, dtype=torch.int32) - counts


def bases(mask: Tensor) -> Tensor:
    """Active blocks before every group of 1,024, int32 (groups,)."""
    counts = mask.new_empty(triton.cdiv(mask.numel(), GROUP // 32))
    grid = (triton.cdiv(counts.numel(), GROUPS_AT_ONCE),)
    _count_groups[grid](mask, counts, mask.numel(), GROUPS_AT_ONCE)
    return before(counts)


def pack(flags: Tensor) -> Tensor:
    """`bitmask.pack` on the device: bool (blocks,) -> int32 (words,)."""
    mask = torch.empty(words(flags.numel()), dtype=torch.int32, device=flags.device)
    _pack[(groups(flags.numel()),)](flags.view(torch.uint8), mask, flags.numel())
    return mask


def survivors(mask: Tensor, bases: Tensor, total: int, dropped: Tensor) -> Tensor:
    """The mask without the active blocks at the compact positions where `dropped`, bool
    (active,).
    """
    return exchanged(mask, bases, total, dropped, None)


def exchanged(mask: Tensor, bases: Tensor, total: int, dropped: Tensor, regrown: Tensor | None) -> Tensor:
    """The mask without the blocks that are `dropped` and with those of the mask `regrown`."""
    out = torch.empty_like(mask)
    _exchange[(groups(total),)](mask, bases, dropped.view(torch.uint8), regrown, out, total)
    return out
