"""Where the active weights of one matrix are: one bit a block, and how blocks map to the dense matrix.

Three kinds, one rule. The weights of a matrix are numbered in blocks: `element` blocks are single weights in row-major order, `run`
blocks are `block` consecutive weights in row-major order (the papers' block structure), `tile` blocks are block x block squares,
numbered row by row. Compact tensors hold the active blocks one after another in ascending order of their number.

The decision that shaped this file: a layout is one bit a block (`kernels.bitmask`), which is all that memory pays for; lists of
block numbers are made when they are needed and thrown away. A full matrix (every block active) needs no mask at all: its values
*are* the dense matrix, row-major whatever the kind.

Left out: values and moments (`storage`), choosing blocks (`topology`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.counts import Blocks
from raysparse.kernels import bitmask, philox, reference, selection
from raysparse.spec import LayoutKind

INITIAL_MASK = 1  # what a Philox stream is for; topology.py holds the others


@dataclass
class Layout:
    """The active blocks of one matrix of (rows, columns)."""

    kind: LayoutKind
    block: int
    shape: Blocks
    mask: Tensor | None  # int32 words, one bit a block; None when every block is active

    @classmethod
    def random(cls, kind: LayoutKind, block: int, shape: Blocks, *, seed: int, matrix: int) -> Layout:
        """Exactly `shape.active` blocks, uniformly at random, a function of (seed, matrix) alone."""
        if shape.active == shape.total:
            return cls(kind, block, shape, None)
        empty = torch.zeros(bitmask.words(shape.total), dtype=torch.int32)
        key = philox.stream(seed, matrix, INITIAL_MASK)
        return cls(kind, block, shape, selection.regrow_at_random(empty, shape.total, shape.active, key))

    @property
    def is_full(self) -> bool:
        return self.mask is None

    def positions(self) -> Tensor:
        """Numbers of the active blocks, ascending, int64 (active,)."""
        if self.mask is None:
            return torch.arange(self.shape.total)
        return bitmask.positions(self.mask, self.shape.total, self.shape.active)

    def expand(self, values: Tensor, out: Tensor) -> Tensor:
        """Fill the dense matrix `out` (rows, columns) with the active `values` and zeros elsewhere; returns it."""
        if self.mask is None:
            out.view(-1).copy_(values)
        elif self.kind == "tile":
            out.zero_()
            self._tiles(out)[self._tile_places()] = values.view(-1, self.block, self.block).to(out.dtype)
        else:
            reference.expand(values, self.mask, out.view(self.shape.total, self.shape.size))
        return out

    def compact_accumulate(self, dense: Tensor, grad: Tensor) -> None:
        """grad += the active weights' entries of the dense matrix (rows, columns)."""
        if self.mask is None:
            grad.add_(dense.view(-1))
        elif self.kind == "tile":
            grad.view(-1, self.block, self.block).add_(self._tiles(dense)[self._tile_places()])
        else:
            reference.compact_accumulate(dense.view(self.shape.total, self.shape.size), self.mask, grad)

    def block_sums(self, dense: Tensor) -> Tensor:
        """Sum over every block of a dense matrix, active or not, float32 (total,)."""
        if self.kind == "tile":
            return self._tiles(dense).sum(dim=(1, 3)).view(-1)
        return dense.view(self.shape.total, self.shape.size).sum(dim=1)

    def _tiles(self, dense: Tensor) -> Tensor:
        """The dense matrix as (tile row, row, tile column, column), a view."""
        return dense.view(self.shape.rows // self.block, self.block, self.shape.columns // self.block, self.block)

    def _tile_places(self) -> tuple[Tensor, slice, Tensor, slice]:
        """An index into `_tiles` that picks the active ones, (active, block, block)."""
        per_row = self.shape.columns // self.block
        number = self.positions()
        return number // per_row, slice(None), number % per_row, slice(None)
