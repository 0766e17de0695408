"""Where the active weights of one matrix are: one bit a block, and how blocks map to the dense
matrix.

Three kinds, one rule. The weights of a matrix are numbered in blocks: `element` blocks are single
weights in row-major order, `run` blocks are `block` consecutive weights in row-major order (the
papers' block structure), `tile` blocks are block x block squares, numbered row by row. Compact
tensors hold the active blocks one after another in ascending order of their number.

A layout is one bit a block (`kernels.bitmask`), which is all that memory pays for; lists of block
numbers are made when they are needed and thrown away. A full matrix (every block active) needs no
mask at all: its values *are* the dense matrix, row-major whatever the kind.

Left out: values and moments (`storage`), choosing blocks (`topology`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from raysparse.counts import Blocks
from raysparse.kernels import bitmask, ops, philox
from raysparse.kernels.tile_lists import TileLists, tile_lists
from raysparse.kernels.torch.selection import pairwise_sums
from raysparse.spec import LayoutKind

INITIAL_MASK = 1  # what a Philox stream is for; topology.py holds the others


class Layout:
    """The active blocks of one matrix of (rows, columns).

    mask: int32 words, one bit a block, or None when every block is active; bases: what kernels
    derive ranks from. A layout may be a part of another, `joined`, whose mask it then shares.
    """

    def __init__(self, kind: LayoutKind, block: int, shape: Blocks, mask: Tensor | None):
        self.kind, self.block, self.shape = kind, block, shape
        self.mask = mask
        self._bases: Tensor | None = None
        self._lists: TileLists | None = None
        self._whole: Layout | None = None

    @classmethod
    def random(
        cls, kind: LayoutKind, block: int, shape: Blocks, *, seed: int, matrix: int, device: torch.device | str = "cpu",
        balanced: bool = False,
    ) -> Layout:  # fmt: skip
        """Exactly `shape.active` blocks, uniformly at random, a function of (seed, matrix) alone;
        balanced: as many in each row.
        """
        if shape.active == shape.total:
            return cls(kind, block, shape, None)
        empty = torch.zeros(bitmask.words(shape.total), dtype=torch.int32, device=device)
        key = philox.stream(seed, matrix, INITIAL_MASK)
        layout = cls(kind, block, shape, empty)
        mask = (
            layout.regrown_in_rows(empty, key)
            if balanced
            else ops.regrow_at_random(empty, shape.total, shape.active, key)
        )
        layout.replace(mask)
        return layout

    @classmethod
    def joined(cls, parts: Sequence[Layout], shape: Blocks) -> Layout:
        """The matrices of the parts one below the other, as one of `shape`. Their masks become
        slices of its own, and it follows when they change.
        """
        masks = [p.mask for p in parts if p.mask is not None]
        whole = cls(parts[0].kind, parts[0].block, shape, torch.cat(masks) if masks else None)
        if whole.mask is not None:
            for part, words in zip(parts, torch.split(whole.mask, [len(m) for m in masks]), strict=True):
                part.mask, part._whole = words, whole
        return whole

    @property
    def bases(self) -> Tensor | None:
        if self._bases is None and self.mask is not None:
            self._bases = ops.bases(self.mask)
        return self._bases

    @property
    def is_full(self) -> bool:
        return self.mask is None

    @property
    def nbytes(self) -> int:
        """Bytes really held; a part's mask is its whole's."""
        mask = None if self._whole is not None else self.mask
        return sum(t.nbytes for t in (mask, self._bases) if t is not None)

    def replace(self, mask: Tensor) -> None:
        """Take other blocks, as many as before."""
        assert self.mask is not None
        self.mask.copy_(mask)
        self._bases = None
        self._changed()

    def exchange(self, pruned: Tensor, regrown: Tensor, states: Iterable[Tensor]) -> None:
        """Active blocks where `pruned`, bool (active,), go; those of the mask `regrown` come, as
        many. The states move along; a block that comes starts at 0.
        """
        assert self.mask is not None
        assert self.bases is not None
        ops.exchange(self.mask, self.bases, self.shape.total, pruned, regrown, *states)
        self._changed()

    def _changed(self) -> None:
        self._lists = None
        if self._whole is not None:
            self._whole._bases = self._whole._lists = None

    def survivors(self, pruned: Tensor) -> Tensor:
        """A mask of the active blocks that are not `pruned`, bool (active,)."""
        assert self.mask is not None
        assert self.bases is not None
        left: Tensor = ops.survivors(self.mask, self.bases, self.shape.total, pruned)
        return left

    def regrown_in_rows(self, survivors: Tensor, key: int, scores: Tensor | None = None) -> Tensor:
        """For balanced tiles: a mask of as many new blocks in every row as the `survivors` there
        are short of.
        """
        assert self.mask is not None
        rows = self.shape.rows // self.block
        per_row = self.shape.active // rows
        return ops.regrow_in_rows(self.mask, survivors, self.shape.total, rows, per_row, key, scores)

    def positions(self) -> Tensor:
        """Numbers of the active blocks, ascending, int64 (active,)."""
        if self.mask is None:
            return torch.arange(self.shape.total)
        return bitmask.positions(self.mask, self.shape.total, self.shape.active)

    def tiles(self) -> TileLists:
        """Where the active tiles are, for products that go through them; kept until the layout
        changes.
        """
        assert self.mask is not None
        if self._lists is None:
            self._lists = tile_lists(self.mask, self.shape.rows, self.shape.columns, self.block, self.shape.active)
        return self._lists

    def expand(self, values: Tensor, out: Tensor) -> Tensor:
        """Fill the dense matrix `out` (rows, columns) with the active `values` and zeros elsewhere;
        returns it.
        """
        if self.mask is None or self.bases is None:
            out.view(-1).copy_(values)
        else:
            ops.expand(values, self.mask, self.bases, self._dense_view(out), self._tile)
        return out

    def compact_accumulate(self, dense: Tensor, grad: Tensor) -> None:
        """grad += the active weights' entries of the dense matrix (rows, columns)."""
        if self.mask is None or self.bases is None:
            ops.accumulate(dense, grad)
        else:
            ops.compact_accumulate(self._dense_view(dense), self.mask, self.bases, grad, self._tile)

    def block_sums(self, dense: Tensor) -> Tensor:
        """Sum over every block of a dense matrix, active or not, float32 (total,)."""
        if self.kind == "tile":
            b = self.block
            tiles = dense.view(self.shape.rows // b, b, self.shape.columns // b, b).transpose(1, 2)
            return pairwise_sums(tiles.reshape(self.shape.total, self.shape.size))
        return pairwise_sums(dense.view(self.shape.total, self.shape.size))

    @property
    def _tile(self) -> int:
        return self.block if self.kind == "tile" else 0

    def _dense_view(self, dense: Tensor) -> Tensor:
        """As the kernels take it: (rows, columns) for tiles, (blocks, size) otherwise."""
        return dense if self.kind == "tile" else dense.view(self.shape.total, self.shape.size)
