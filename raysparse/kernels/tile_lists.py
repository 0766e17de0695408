"""Where the active tiles of a matrix are, as index lists: what the Triton products go through.

A mask is what is kept. These lists are made from it on its device, in a few torch operations that
wait for nothing, whenever the topology has changed: 16 bytes a tile, where a tile of 64 has 8,192
bytes of values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from raysparse.kernels import bitmask


class TileLists(NamedTuple):
    """All int32. Tiles are numbered row by row, in the order of their values."""

    rows: Tensor  # (active,) tile row of each tile
    columns: Tensor  # (active,) tile column
    row_starts: Tensor  # (tile rows + 1,): tiles row_starts[r] to row_starts[r + 1] are those of row r
    by_column: Tensor  # (active,) tile numbers, column by column
    rows_by_column: Tensor  # (active,) tile rows in that order
    column_starts: Tensor  # (tile columns + 1,)


def tile_lists(mask: Tensor, rows: int, columns: int, side: int, active: int) -> TileLists:
    """Lists of the `active` tiles of `side` x `side` of a matrix of (rows, columns)."""
    tile_rows, tile_columns = rows // side, columns // side
    number = bitmask.positions(mask, tile_rows * tile_columns, active)
    row, column = number // tile_columns, number % tile_columns
    by_column = column.argsort(stable=True)
    row_starts = torch.searchsorted(row, torch.arange(tile_rows + 1, device=mask.device))
    column_starts = torch.searchsorted(column[by_column], torch.arange(tile_columns + 1, device=mask.device))
    made = row, column, row_starts, by_column, row[by_column], column_starts
    return TileLists(*(t.to(torch.int32) for t in made))
