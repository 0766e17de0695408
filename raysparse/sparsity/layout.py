"""Where the active weights of one matrix are: a sorted list of block numbers, and how blocks map to the dense matrix.

Three kinds, one rule. The weights of a matrix are numbered in blocks: `element` blocks are single weights in row-major order, `run`
blocks are `block` consecutive weights in row-major order (the papers' block structure), `tile` blocks are block x block squares,
numbered row by row. Compact tensors hold the active blocks one after another in ascending order of their number.

The decision that shaped this file: the index list is the layout (int32, 4 bytes a block). It is what the CPU reads fastest; a
bitmask for GPUs is derived from the same list. A full matrix (every block active) needs no list at all: its values *are* the dense
matrix, row-major whatever the kind.

Left out: values and moments (`storage`), choosing blocks (`topology`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.counts import Blocks
from raysparse.kernels import philox, reference
from raysparse.spec import LayoutKind

INITIAL_MASK = 1  # what a Philox stream is for; topology.py holds the others


@dataclass
class Layout:
    """The active blocks of one matrix of (rows, columns)."""

    kind: LayoutKind
    block: int
    shape: Blocks
    index: Tensor | None  # int32 (active,), ascending; None when every block is active

    @classmethod
    def random(cls, kind: LayoutKind, block: int, shape: Blocks, *, seed: int, matrix: int) -> Layout:
        """Exactly `shape.active` blocks, uniformly at random, a function of (seed, matrix) alone."""
        if shape.active == shape.total:
            return cls(kind, block, shape, None)
        keys = philox.words(philox.stream(seed, matrix, INITIAL_MASK), shape.total)
        return cls(kind, block, shape, reference.smallest(keys, shape.active).to(torch.int32))

    @property
    def is_full(self) -> bool:
        return self.index is None

    def inactive(self) -> Tensor:
        """Numbers of the inactive blocks, int64, ascending."""
        if self.index is None:
            return torch.empty(0, dtype=torch.int64)
        absent = torch.ones(self.shape.total, dtype=torch.bool, device=self.index.device)
        absent[self.index.long()] = False
        return absent.nonzero().view(-1)

    def blocks_of(self, dense: Tensor) -> Tensor:
        """All blocks of a dense matrix as (total, size): a view for elements and runs, a copy for tiles."""
        if self.kind != "tile":
            return dense.view(self.shape.total, self.shape.size)
        b = self.block
        tiles = dense.view(self.shape.rows // b, b, self.shape.columns // b, b)
        return tiles.transpose(1, 2).reshape(self.shape.total, self.shape.size)

    def expand(self, values: Tensor, out: Tensor) -> Tensor:
        """Fill the dense matrix `out` (rows, columns) with the active `values` and zeros elsewhere; returns it."""
        if self.index is None:
            out.view(-1).copy_(values)
        elif self.kind == "tile":
            tile_row, tile_column = self._tile_positions()
            b = self.block
            out.zero_()
            tiles = out.view(self.shape.rows // b, b, self.shape.columns // b, b)
            tiles[tile_row, :, tile_column, :] = values.view(-1, b, b).to(out.dtype)
        else:
            reference.expand(values, self.index, out.view(self.shape.total, self.shape.size))
        return out

    def compact_accumulate(self, dense: Tensor, grad: Tensor) -> None:
        """grad += the active weights' entries of the dense matrix (rows, columns)."""
        if self.index is None:
            grad.add_(dense.view(-1))
        elif self.kind == "tile":
            tile_row, tile_column = self._tile_positions()
            b = self.block
            tiles = dense.view(self.shape.rows // b, b, self.shape.columns // b, b)
            grad.view(-1, b, b).add_(tiles[tile_row, :, tile_column, :])
        else:
            reference.compact_accumulate(dense.view(self.shape.total, self.shape.size), self.index, grad)

    def _tile_positions(self) -> tuple[Tensor, Tensor]:
        assert self.index is not None
        per_row = self.shape.columns // self.block
        index = self.index.long()
        return index // per_row, index % per_row
