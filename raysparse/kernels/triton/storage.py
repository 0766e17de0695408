"""Compact storage in Triton: expand to dense, compact-accumulate from dense, and moving states to
their new places.

Legend: a matrix of `blocks` blocks of `size` weights. Without a `tile`, dense memory is (blocks,
size): single weights and runs. With one, it is (rows, columns), and block b is the square tile b //
(columns / tile), b % (columns / tile). Compact memory holds the active blocks one after another, so
entry e of the active block b is at rank(b) * size + e.

One kernel each way for all three layouts. A program takes `count` blocks of one group and `width`
entries of each: 1,024 x 1 for single weights, 32 x 128 for large tiles. Both memories are read and
written in ascending order, a row of a tile at a time, and no two programs touch the same address:
no atomics, any order of programs gives the same bits.

Cost: expand writes the dense matrix once and reads d of it, which is 1/tokens of the product's
work. Instructions a weight, counted in sm_90 code: 20 and 28 for single weights in bfloat16, which
bandwidth leaves time for (a test holds 25 and 30).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.bitmask import GROUP, WORD
from raysparse.kernels.triton import bits as bit_masks
from raysparse.kernels.triton.bits import cast, ranks, ranks_by_word


@triton.jit
def _dense_place(block, entry, columns, size: tl.constexpr, tile: tl.constexpr):
    """Where entry `entry` of block `block` is in dense memory."""
    if tile == 0:
        place = block * size + entry
    else:
        # Not after a return: what follows one is compiled all the same, and where a launch makes
        # `columns` a constant (1), `columns // tile` with tile 0 is worked out and refused.
        per_row = columns // tile
        corner = block // per_row * tile * columns + block % per_row * tile
        place = corner + entry // tile * columns + entry % tile
    return place


@triton.jit
def _expand(
    values, mask, bases, out, blocks, columns,
    size: tl.constexpr, tile: tl.constexpr, count: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * count
    if size == 1:
        chosen, place = ranks_by_word(mask, bases, first, blocks, count)
        block = first + tl.arange(0, count // 32)[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(values + place, mask=chosen, other=0)
        tl.store(out + block, cast(value, out.dtype.element_ty), mask=block < blocks)
    else:
        bits, place = ranks(mask, bases, first, blocks, count)
        block = (first + tl.arange(0, count))[:, None]
        entry = (tl.program_id(1) * width + tl.arange(0, width))[None, :]
        inside = (block < blocks) & (entry < size)
        value = tl.load(values + place[:, None] * size + entry, mask=inside & (bits[:, None] != 0), other=0)
        tl.store(out + _dense_place(block, entry, columns, size, tile), cast(value, out.dtype.element_ty), mask=inside)


@triton.jit
def _compact(
    dense, mask, bases, grad, blocks, columns,
    size: tl.constexpr, tile: tl.constexpr, count: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * count
    if size == 1:
        chosen, place = ranks_by_word(mask, bases, first, blocks, count)
        # A 0 that the compiler does not know hides that neighbours lie side by side: to read them
        # as vectors it would hold them otherwise than it stores, and work every place out twice.
        lane = tl.arange(0, 32)[None, :] ^ tl.program_id(1)
        value = tl.load(dense + first + tl.arange(0, count // 32)[:, None] * 32 + lane, mask=chosen)
        target = grad + place
    else:
        bits, place = ranks(mask, bases, first, blocks, count)
        block = (first + tl.arange(0, count))[:, None]
        entry = (tl.program_id(1) * width + tl.arange(0, width))[None, :]
        chosen = (entry < size) & (bits[:, None] != 0)
        value = tl.load(dense + _dense_place(block, entry, columns, size, tile), mask=chosen)
        target = grad + place[:, None] * size + entry
    total = tl.load(target, mask=chosen).to(tl.float32) + value.to(tl.float32)
    tl.store(target, cast(total, grad.dtype.element_ty), mask=chosen)


@triton.jit
def _move(
    old, new, old_mask, old_bases, new_mask, new_bases, dropped, blocks,
    size: tl.constexpr, count: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * count
    was, source = ranks(old_mask, old_bases, first, blocks, count)
    gone = tl.load(dropped + source, mask=was != 0, other=1)
    active, target = ranks(new_mask, new_bases, first, blocks, count)
    entry = (tl.program_id(1) * width + tl.arange(0, width))[None, :]
    stays = (gone == 0)[:, None] & (entry < size)
    value = tl.load(old + source[:, None] * size + entry, mask=stays, other=0)
    tl.store(new + target[:, None] * size + entry, value, mask=(active != 0)[:, None] & (entry < size))


def cut_of(size: int) -> tuple[int, int]:
    """(entries of a block, blocks) that one program takes."""
    width = min(triton.next_power_of_2(size), 128)
    return width, min(GROUP, max(WORD, 2048 // width))


def _geometry(dense: Tensor, tile: int) -> tuple[int, int, int, int, tuple[int, int]]:
    """(blocks, size, blocks a program, entries a program, grid) for dense memory, and the checks
    both ways share.
    """
    assert dense.is_contiguous()
    assert dense.numel() < 2**31, "a single matrix is indexed with 32 bits"
    size = tile * tile if tile else dense.shape[1]
    blocks = dense.numel() // size
    width, count = cut_of(size)
    return blocks, size, count, width, (triton.cdiv(blocks, count), triton.cdiv(size, width))


def expand(values: Tensor, mask: Tensor, bases: Tensor, out: Tensor, tile: int = 0) -> None:
    """Fill `out`, (blocks, size) or with a `tile` (rows, columns), with the
    active values and zeros.
    """
    blocks, size, count, width, grid = _geometry(out, tile)
    _expand[grid](values, mask, bases, out, blocks, out.shape[1], size, tile, count, width)


def compact_accumulate(dense: Tensor, mask: Tensor, bases: Tensor, grad: Tensor, tile: int = 0) -> None:
    """grad += the active blocks of `dense`, added in float32."""
    blocks, size, count, width, grid = _geometry(dense, tile)
    _compact[grid](dense, mask, bases, grad, blocks, dense.shape[1], size, tile, count, width)


def exchange(mask: Tensor, bases: Tensor, total: int, dropped: Tensor, regrown: Tensor, *states: Tensor) -> None:
    """Take blocks out and others in, with their states, in place.

    The masks say where each block was and is, so a state moves in one launch, out of a copy of
    itself: what this takes is the memory of one state of the matrix.
    """
    new_mask = bit_masks.exchanged(mask, bases, total, dropped, regrown)
    new_bases = bit_masks.bases(new_mask)
    for state in states:
        size = state.numel() // dropped.numel()
        width, count = cut_of(size)
        _move[(triton.cdiv(total, count), triton.cdiv(size, width))](
            state.clone(), state, mask, bases, new_mask, new_bases, dropped.view(torch.uint8), total,
            size, count, width,
        )  # fmt: skip
    mask.copy_(new_mask)
    bases.copy_(new_bases)
