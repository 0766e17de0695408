"""Products with a matrix kept as tiles: only active tiles are multiplied, forward and in both
gradients. The CPU path.

Legend: t tokens, B the side of a tile; `tiles` (active, B, B) are the values, `where` says where
each of them is among the tiles of the matrix.

One in-place `addmm_` per tile on strided views of x and y. On a CPU it beats batched products with
index_add, gathered rows and MKL's block format by 2-8 times, because nothing is copied. Sums over
the tiles of a row are kept in the dtype of the output, so bfloat16 rounds once per tile. Below a
break-even density (`counts.TILE_BREAK_EVEN`) this is faster than the dense product, above it the
caller takes that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.kernels.tile_lists import TileLists


def _places(where: TileLists) -> list[tuple[int, int]]:
    return list(zip(where.rows.tolist(), where.columns.tolist(), strict=True))


def _columns(x: Tensor, tile: int, side: int) -> Tensor:
    return x[:, tile * side : (tile + 1) * side]


def product(x: Tensor, tiles: Tensor, where: TileLists, rows: int) -> Tensor:
    """y = x W^T: x (t, columns) -> (t, rows)."""
    y = x.new_zeros(len(x), rows)
    side = tiles.shape[1]
    for tile, (row, column) in zip(tiles, _places(where), strict=True):
        _columns(y, row, side).addmm_(_columns(x, column, side), tile.t())
    return y


def input_gradient(gradient: Tensor, tiles: Tensor, where: TileLists, columns: int) -> Tensor:
    """dx = dy W: dy (t, rows) -> (t, columns)."""
    dx = gradient.new_zeros(len(gradient), columns)
    side = tiles.shape[1]
    for tile, (row, column) in zip(tiles, _places(where), strict=True):
        _columns(dx, column, side).addmm_(_columns(gradient, row, side), tile)
    return dx


def accumulate_weight_gradient(gradient: Tensor, x: Tensor, where: TileLists, out: Tensor) -> None:
    """out += the active tiles of dy^T x; out (active, B, B), float32 or the dtype of the others."""
    side = out.shape[1]
    total = out if out.dtype == x.dtype else torch.zeros_like(out, dtype=x.dtype)  # products add in one dtype
    for tile, (row, column) in zip(total, _places(where), strict=True):
        tile.addmm_(_columns(gradient, row, side).t(), _columns(x, column, side))
    if total is not out:
        out.add_(total)
