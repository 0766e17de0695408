"""Products with a matrix kept as tiles: only active tiles are multiplied, forward and in both
gradients. The CPU path.

Legend: t tokens, B the side of a tile; `tiles` (active, B, B) are the values; `places` gives each
tile's (row, column) among tiles.

One in-place `addmm_` per tile on strided views of x and y. On a CPU it beats batched products with
index_add, gathered rows and MKL's block format by 2-8 times, because nothing is copied. Sums over
the tiles of a row are kept in the dtype of the output, so bfloat16 rounds once per tile. Below a
break-even density (`counts.TILE_BREAK_EVEN`) this is faster than the dense product, above it the
caller takes that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Places = Sequence[tuple[int, int]]


def places_of(numbers: Tensor, tiles_per_row: int) -> list[tuple[int, int]]:
    """(tile row, tile column) of each active tile; `numbers` are theirs, row by row."""
    return [divmod(number, tiles_per_row) for number in numbers.tolist()]


def _columns(x: Tensor, tile: int, side: int) -> Tensor:
    return x[:, tile * side : (tile + 1) * side]


def product(x: Tensor, tiles: Tensor, places: Places, rows: int) -> Tensor:
    """y = x W^T: x (t, columns) -> (t, rows)."""
    y = torch.zeros(len(x), rows, dtype=x.dtype)
    side = tiles.shape[1]
    for tile, (row, column) in zip(tiles, places, strict=True):
        _columns(y, row, side).addmm_(_columns(x, column, side), tile.t())
    return y


def input_gradient(gradient: Tensor, tiles: Tensor, places: Places, columns: int) -> Tensor:
    """dx = dy W: dy (t, rows) -> (t, columns)."""
    dx = torch.zeros(len(gradient), columns, dtype=gradient.dtype)
    side = tiles.shape[1]
    for tile, (row, column) in zip(tiles, places, strict=True):
        _columns(dx, column, side).addmm_(_columns(gradient, row, side), tile)
    return dx


def accumulate_weight_gradient(gradient: Tensor, x: Tensor, places: Places, out: Tensor) -> None:
    """out += the active tiles of dy^T x; out (active, B, B)."""
    side = out.shape[1]
    for tile, (row, column) in zip(out, places, strict=True):
        tile.addmm_(_columns(gradient, row, side).t(), _columns(x, column, side))
