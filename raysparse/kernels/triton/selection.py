"""Choosing blocks in Triton: the k smallest keys by radix selection, without sorting and without
waiting for the device.

Keys are 32 bits, smallest first: a score's float bits for the weakest, random words for regrowth,
0x7FFFFFFF less a score's bits for the largest. Four times, from the highest byte down, the keys
that agree with what is known of the k-th are counted by their next byte, and the pass that follows
moves on to the byte in which the k-th must lie. Keys below the result are chosen, and of those
equal to it the first, by index: their ranks come from counts of groups. Rows of tiles are sorted
instead: there are few of them.

Keys are made again in every pass and never stored. The passes read the compact values (or the mask
alone: random words are functions of the block's number), so a choice needs a few counts of groups
beside its answer.

Determinism: counts are integers, so the order of atomics does not matter. Scores of blocks of
several weights are float32 sums of |w| over neighbouring pairs, then pairs of pairs, and so on,
with zeros up to a power of two: `pairwise_sums` of the twin says the same in torch. The soft rule
takes the logarithm in float64 and rounds it, so that devices disagree on one key in some 2^28 only.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.bitmask import words
from raysparse.kernels.torch.selection import first_in_rows
from raysparse.kernels.triton import bits as bit_masks
from raysparse.kernels.triton.adam import signed
from raysparse.kernels.triton.bits import bits_of, store_bits

COUNTED = 4096  # keys that a program counts
SUMMED = 2048  # weights that a program sums
LEAF = 128  # neighbours that it sums at once, at most


@triton.jit
def _words(noise, first, count: tl.constexpr):
    """Random words of blocks first..first + count, as `philox.words`: counter i // 4, lane i % 4.
    `first` is a multiple of 4.
    """
    a, b, c, d = tl.randint4x(noise, first // 4 + tl.arange(0, count // 4))
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (count,)).to(tl.uint32, bitcast=True)


@triton.jit
def _power_over_exponential(score, word, power: tl.constexpr):
    """score ** power / -log(uniform): the k smallest are dropped with the odds of the soft rule."""
    uniform = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    result = score
    for _ in tl.static_range(power - 1):
        result = result * score
    return tl.div_rn(result, -tl.log(uniform.to(tl.float64)).to(tl.float32))


@triton.jit
def _keys(source, mask, noise, first, total, rule: tl.constexpr, power: tl.constexpr, count: tl.constexpr):
    """uint32 keys of `count` blocks from `first` on, and which of them may be chosen."""
    block = first + tl.arange(0, count)
    allowed = block < total
    if rule == "weakest":
        score = tl.abs(tl.load(source + block, mask=allowed, other=0).to(tl.float32))
        if power > 0:
            score = _power_over_exponential(score, _words(noise, first, count), power)
        key = score.to(tl.uint32, bitcast=True)
    else:
        allowed = allowed & (bits_of(mask, first, total, count) == 0)
        if rule == "random":
            key = _words(noise, first, count)
        else:
            key = 0x7FFFFFFF - tl.load(source + block, mask=allowed, other=0).to(tl.uint32, bitcast=True)
    return key, allowed


@triton.jit
def _narrowed(counts, found, k, level: tl.constexpr):
    """(the first `level` bytes of the k-th smallest key, its place among the keys that begin so).

    Each program works it out from the counts of the pass before, which is cheaper than a launch of
    its own; the first writes it down for the pass that comes.
    """
    known = 0
    if level > 0:
        if level > 1:
            known, k = tl.load(found + 2 * level - 2), tl.load(found + 2 * level - 1)
        digit = tl.load(counts + (level - 1) * 256 + tl.arange(0, 256))
        is_below = tl.cumsum(digit) < k
        known = known * 256 + tl.sum(is_below.to(tl.int32))
        k = k - tl.sum(tl.where(is_below, digit, 0))
        if tl.program_id(0) == 0:
            tl.store(found + 2 * level, known)
            tl.store(found + 2 * level + 1, k)
    return known, k


@triton.jit(do_not_specialize=["noise", "k"])
def _count_digits(
    source, mask, noise, total, k, counts, found,
    level: tl.constexpr, rule: tl.constexpr, power: tl.constexpr, count: tl.constexpr,
):  # fmt: skip
    key, allowed = _keys(source, mask, noise, tl.program_id(0) * count, total, rule, power, count)
    shift: tl.constexpr = 24 - 8 * level
    known, _ = _narrowed(counts, found, k, level)
    if level > 0:
        allowed = allowed & ((key >> (shift + 8)) == known.to(tl.uint32))
    has_digit = tl.histogram(((key >> shift) & 255).to(tl.int32), 256, mask=allowed)
    tl.atomic_add(counts + level * 256 + tl.arange(0, 256), has_digit, mask=has_digit > 0, sem="relaxed")


@triton.jit(do_not_specialize=["noise", "k"])
def _count_ties(source, mask, noise, total, k, counts, found, ties, rule: tl.constexpr, power: tl.constexpr):
    key, allowed = _keys(source, mask, noise, tl.program_id(0) * 1024, total, rule, power, 1024)
    bound, _ = _narrowed(counts, found, k, 4)
    equal = allowed & (key == bound.to(tl.uint32))
    tl.store(ties + tl.program_id(0), tl.sum(equal.to(tl.int32)))


@triton.jit(do_not_specialize=["noise"])
def _choose(
    source, mask, noise, total, found, ties, out,
    rule: tl.constexpr, power: tl.constexpr, packed: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * 1024
    key, allowed = _keys(source, mask, noise, first, total, rule, power, 1024)
    bound = tl.load(found + 8).to(tl.uint32)
    equal = (allowed & (key == bound)).to(tl.int32)
    rank = tl.load(ties + tl.program_id(0)) + tl.cumsum(equal)
    chosen = (allowed & (key < bound)).to(tl.int32) | (equal & (rank <= tl.load(found + 9)).to(tl.int32))
    if packed:
        store_bits(out, chosen, first, total, 1024)
    else:
        block = first + tl.arange(0, 1024)
        tl.store(out + block, chosen.to(tl.uint8), mask=block < total)


@triton.jit(do_not_specialize=["noise"])
def _row_keys(scores, mask, survivors, noise, total, out):
    """int64 keys: inactive blocks first, then those that were active, last the survivors."""
    first = tl.program_id(0) * 1024
    block = first + tl.arange(0, 1024)
    if scores is None:
        key = _words(noise, first, 1024)
    else:
        key = 0x7FFFFFFF - tl.load(scores + block, mask=block < total, other=0).to(tl.uint32, bitcast=True)
    later = bits_of(mask, first, total, 1024).to(tl.int64) << 32
    kept = bits_of(survivors, first, total, 1024)
    tl.store(out + block, tl.where(kept != 0, 2 << 32, key.to(tl.int64) + later), mask=block < total)


@triton.jit
def _sum_pairs(values, sums, total, size, parts, width: tl.constexpr, levels: tl.constexpr, count: tl.constexpr):
    """sums[i] of |values| over part i % parts, `width` = 2 ** levels entries long, of block i //
    parts.
    """
    at = tl.program_id(0) * count + tl.arange(0, count)
    entry = (at % parts * width)[:, None] + tl.arange(0, width)[None, :]
    inside = (at[:, None] < total) & (entry < size)
    x = tl.abs(tl.load(values + (at // parts)[:, None] * size + entry, mask=inside, other=0).to(tl.float32))
    for level in tl.static_range(levels):
        even, odd = tl.split(tl.reshape(x, (count, width >> (level + 1), 2)))
        x = even + odd
    tl.store(sums + at, tl.reshape(x, (count,)), mask=at < total)


def _smallest(
    source: Tensor | None, mask: Tensor | None, total: int, k: int, rule: str,
    *, device: torch.device, noise: int = 0, power: int = 0, packed: bool,
) -> Tensor:  # fmt: skip
    """Which of `total` blocks have the k smallest keys under `rule`: int32 words if `packed`, else
    bool (total,).
    """
    counts = torch.zeros(4, 256, dtype=torch.int32, device=device)  # of digits, by level
    found = torch.empty(5, 2, dtype=torch.int32, device=device)  # what is known of the k-th key, by level
    key = signed(noise)
    for level in range(4):
        _count_digits[(triton.cdiv(total, COUNTED),)](
            source, mask, key, total, k, counts, found, level, rule, power, COUNTED
        )
    grid = (bit_masks.groups(total),)
    ties = torch.empty(grid[0], dtype=torch.int32, device=device)
    _count_ties[grid](source, mask, key, total, k, counts, found, ties, rule, power)
    out = torch.empty(words(total) if packed else total, dtype=torch.int32 if packed else torch.uint8, device=device)
    _choose[grid](source, mask, key, total, found, bit_masks.before(ties), out, rule, power, packed)
    return out if packed else out.view(torch.bool)


def block_scores(values: Tensor, size: int) -> Tensor:
    """Sum of |w| over each block of `size` weights, float32 (blocks,)."""
    blocks = values.numel() // size
    while True:  # large blocks in two rounds: sums of 128, then sums of those
        width, levels, count = cut_of(size)
        parts = triton.cdiv(size, width)
        sums = torch.empty(blocks * parts, dtype=torch.float32, device=values.device)
        _sum_pairs[(triton.cdiv(sums.numel(), count),)](values, sums, sums.numel(), size, parts, width, levels, count)
        if parts == 1:
            return sums
        values, size = sums, parts


def cut_of(size: int) -> tuple[int, int, int]:
    """(entries that are added at once, its logarithm, how many such parts a program takes)."""
    width = min(triton.next_power_of_2(size), LEAF)
    return width, width.bit_length() - 1, SUMMED // width


def weakest(values: Tensor, size: int, k: int, *, noise: int | None = None, exponent: float = 1.0) -> Tensor:
    """The k active blocks with the smallest sum of |w|, bool (active,). The
    exponent must be whole.
    """
    power = 0 if noise is None else int(exponent)
    if noise is not None and (power != exponent or power < 1):
        raise ValueError(f"exponent is {exponent}, expected 1, 2, 3, ...: on a GPU the soft rule multiplies")
    source = values if size == 1 else block_scores(values, size)
    return _smallest(
        source, None, source.numel(), k, "weakest", device=values.device, noise=noise or 0, power=power, packed=False
    )  # fmt: skip


def regrow_at_random(mask: Tensor, total: int, k: int, key: int) -> Tensor:
    """k of the inactive blocks, those with the smallest random words,
    as a mask.
    """
    return _smallest(None, mask, total, k, "random", device=mask.device, noise=key, packed=True)


def regrow_largest(mask: Tensor, scores: Tensor, k: int) -> Tensor:
    """The k inactive blocks with the largest scores, float32 (total,),
    as a mask.
    """
    return _smallest(scores, mask, scores.numel(), k, "largest", device=mask.device, packed=True)


def regrow_in_rows(
    mask: Tensor, survivors: Tensor, total: int, rows: int, per_row: int, key: int, scores: Tensor | None = None
) -> Tensor:
    """In each of `rows` equal rows of blocks, as many new ones as its `survivors` are short of
    `per_row`, as a mask.
    """
    keys = torch.empty(total, dtype=torch.int64, device=mask.device)
    _row_keys[(bit_masks.groups(total),)](scores, mask, survivors, signed(key), total, keys)
    return bit_masks.pack(first_in_rows(keys, rows, per_row))
