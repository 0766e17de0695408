"""Products with a matrix kept as tiles, in Triton: only active tiles are multiplied, forward and in
both gradients.

Legend: t tokens; W (rows, columns) in tiles of `side`; tiles (active, side, side) its values, row
    by row; a program computes
`portion` tokens of one tile column of y, going through the tiles of one tile row (for dx: tile
column) `depth` entries at a time.
    y[:, r] = sum over tiles (r, c) of x[:, c] W_rc^T      dx[:, c] = sum over tiles (r, c) of dy[:,
    r] W_rc
    dW_rc += dy[:, r]^T x[:, c]

Operands are read through tensor descriptors. On Hopper that is the copy engine (TMA) feeding wgmma,
with no registers spent on addresses and no masks at the end of the tokens; on older GPUs Triton
lowers the same code to pointers. Sums are float32; a program owns its output, so there are no
atomics and every run gives the same bits.

Hazards. Tiles of 32 are below wgmma's 64 rows in dW and fall back to mma.sync. float32 products are
IEEE (not tf32) and therefore slow: this layout is for bfloat16. Tile rows of unequal counts make
programs of unequal length; row-balanced masks avoid that. In the interpreter bfloat16 products are
wrong, so there operands are widened first (`widen`).
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from raysparse.kernels.tile_lists import TileLists
from raysparse.kernels.triton.bits import cast

ENOUGH_PROGRAMS = 264  # two for each of a Hopper's 132 multiprocessors


@triton.jit
def _multiply(a, b, total, widen: tl.constexpr):
    if widen:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _product(
    x, tiles, y, starts, numbers, partners,
    side: tl.constexpr, portion: tl.constexpr, depth: tl.constexpr, transposed: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    own = tl.program_id(0)
    first_token = tl.program_id(1) * portion
    steps: tl.constexpr = side // depth
    total = tl.zeros((portion, side), dtype=tl.float32)
    for step in range(tl.load(starts + own) * steps, tl.load(starts + own + 1) * steps):
        visit, part = step // steps, step % steps * depth
        a = x.load([first_token, tl.load(partners + visit) * side + part])
        if transposed:
            b = tiles.load([visit * side, part]).T
        else:
            b = tiles.load([tl.load(numbers + visit) * side + part, 0])
        total = _multiply(a, b, total, widen)
    y.store([first_token, own * side], cast(total, y.dtype))


@triton.jit
def _weight_gradient(
    gradient, x, rows, columns, out, tokens,
    side: tl.constexpr, part: tl.constexpr, depth: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    tile, first_column = tl.program_id(0), tl.program_id(1) * part
    row, column = tl.load(rows + tile) * side, tl.load(columns + tile) * side + first_column
    total = tl.zeros((side, part), dtype=tl.float32)
    for token in range(0, tokens, depth):
        total = _multiply(gradient.load([token, row]).T, x.load([token, column]), total, widen)
    place = tl.arange(0, side)[:, None] * side + first_column + tl.arange(0, part)[None, :]
    target = out + tile.to(tl.int64) * side * side + place
    tl.store(target, cast(tl.load(target).to(tl.float32) + total, out.dtype.element_ty))


class Cut(NamedTuple):
    """How a product is cut up, by the side of a tile and the dtype."""

    portion: int  # tokens of a program
    depth: int  # entries of y's sum at a time
    tokens: int  # entries of dW's sum at a time
    part: int  # columns of a tile that a program of dW computes, at most
    warps: int
    stages: int = 3  # of the pipeline that loads operands ahead


def cut_of(side: int, dtype: torch.dtype) -> Cut:
    """Not tuned on a GPU yet: shapes that compile for sm_90 without spills."""
    if dtype == torch.float32:
        return Cut(portion=32, depth=16, tokens=16, part=min(side, 32), warps=8 if side == 128 else 4)
    return Cut(portion=128, depth=min(side, 64), tokens=64, part=side, warps=8 if side == 128 else 4)


def _check(tiles: Tensor) -> int:
    side = tiles.shape[1]
    if side not in (16, 32, 64, 128):
        raise ValueError(f"tiles are {side} x {side}, expected 16, 32, 64 or 128: other sides use the dense product")
    return side


def _by_side(
    x: Tensor, tiles: Tensor, y: Tensor, starts: Tensor, numbers: Tensor | None, partners: Tensor, *, transposed: bool
) -> Tensor:
    side = _check(tiles)
    cut = cut_of(side, x.dtype)
    _product[(y.shape[1] // side, triton.cdiv(len(x), cut.portion))](
        TensorDescriptor.from_tensor(x.contiguous(), [cut.portion, cut.depth]),
        TensorDescriptor.from_tensor(tiles.view(-1, side), [side, cut.depth] if transposed else [cut.depth, side]),
        TensorDescriptor.from_tensor(y, [cut.portion, side]),
        starts, numbers, partners, side, cut.portion, cut.depth, transposed, _is_interpreted(),
        num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return y


def product(x: Tensor, tiles: Tensor, where: TileLists, rows: int) -> Tensor:
    """y = x W^T: x (t, columns) -> (t, rows)."""
    y = x.new_empty(len(x), rows)
    return _by_side(x, tiles, y, where.row_starts, None, where.columns, transposed=True)


def input_gradient(gradient: Tensor, tiles: Tensor, where: TileLists, columns: int) -> Tensor:
    """dx = dy W: dy (t, rows) -> (t, columns)."""
    dx = gradient.new_empty(len(gradient), columns)
    return _by_side(gradient, tiles, dx, where.column_starts, where.by_column, where.rows_by_column, transposed=False)


def accumulate_weight_gradient(gradient: Tensor, x: Tensor, where: TileLists, out: Tensor) -> None:
    """out += the active tiles of dy^T x; out (active, side, side), added in float32."""
    side = _check(out)
    cut = cut_of(side, x.dtype)
    part = cut.part
    while (
        part > 32 and len(out) * (side // part) < ENOUGH_PROGRAMS
    ):  # few tiles: split them, so that no processor idles
        part //= 2
    _weight_gradient[(len(out), side // part)](
        TensorDescriptor.from_tensor(gradient.contiguous(), [cut.tokens, side]),
        TensorDescriptor.from_tensor(x.contiguous(), [cut.tokens, part]),
        where.rows, where.columns, out, len(x), side, part, cut.tokens, _is_interpreted(),
        num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip


def _is_interpreted() -> bool:
    return bool(triton.knobs.runtime.interpret)
