"""Compact storage in plain torch: to dense memory, from it, and moving states to their new places.

Legend: `mask` is the bitmask of a matrix's active blocks, `bases` what kernels derive ranks from
(here places come from the mask alone). Compact tensors hold the active blocks in ascending order.
Dense memory is (blocks, size) for single weights and runs, and (rows, columns) with a `tile`, the
side of square blocks. States move inside their own memory, with no copy of a whole one.

A backward pass takes a matrix's gradient and at once expands it again: the places that were found
for the first are kept until the next `expand`, which takes or drops them (8 bytes an active block
of one matrix; without one, as with resident weights, they stay).
"""

from __future__ import annotations

from torch import Tensor

from raysparse.kernels.bitmask import positions
from raysparse.kernels.torch import bits
from raysparse.kernels.torch.bits import portions


class _Found:
    """The places of a mask's active blocks, kept for one use while the mask stays as it is."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def keep(self, mask: Tensor, index: Tensor) -> None:
        self._kept = mask, mask._version, index

    def take(self, mask: Tensor) -> Tensor | None:
        kept, self._kept = self._kept, None
        return kept[2] if kept is not None and kept[0] is mask and kept[1] == mask._version else None


_found = _Found()


def expand(values: Tensor, mask: Tensor, bases: Tensor, out: Tensor, tile: int = 0) -> None:
    """Fill dense `out` with the active values, in its dtype, and zeros."""
    out.zero_()
    if tile:
        _tiles_of(out, tile)[_places(mask, out, values.numel(), tile)] = values.view(-1, tile, tile).to(out.dtype)
        return
    blocks, size = out.shape
    index = _found.take(mask)
    if index is None:
        index = positions(mask, blocks, values.numel() // size)
    if size == 1:
        out.view(-1)[index] = values.to(out.dtype)  # on all cores, where scatter_ has one
    else:
        out.index_copy_(0, index, values.view(-1, size).to(out.dtype))


def compact_accumulate(dense: Tensor, mask: Tensor, bases: Tensor, grad: Tensor, tile: int = 0) -> None:
    """grad += the active blocks of `dense`."""
    if tile:
        grad.view(-1, tile, tile).add_(_tiles_of(dense, tile)[_places(mask, dense, grad.numel(), tile)])
        return
    blocks, size = dense.shape
    index = positions(mask, blocks, grad.numel() // size)
    _found.keep(mask, index)
    if size == 1:
        grad.add_(dense.take(index))  # on all cores; rows of one number would be copied one by one
    else:
        grad.view(-1, size).add_(dense.index_select(0, index))


def accumulate(dense: Tensor, grad: Tensor) -> None:
    """grad += `dense`, of which every entry is active."""
    grad.add_(dense.view(-1))


def _tiles_of(dense: Tensor, tile: int) -> Tensor:
    """The dense matrix as (tile row, tile column, tile, tile), a view."""
    rows, columns = dense.shape
    return dense.view(rows // tile, tile, columns // tile, tile).transpose(1, 2)


def _places(mask: Tensor, dense: Tensor, count: int, tile: int) -> tuple[Tensor, Tensor]:
    """(tile rows, tile columns) of the active tiles."""
    number = positions(mask, dense.numel() // tile**2, count // tile**2)
    per_row = dense.shape[1] // tile
    return number // per_row, number % per_row


def exchange(mask: Tensor, bases: Tensor, total: int, dropped: Tensor, regrown: Tensor, *states: Tensor) -> None:
    """Of the `total` blocks, take out the active ones at the compact positions where `dropped`,
    bool (active,), and take in those of the mask `regrown`, as many.

    In place: `mask`, `bases`, and every state (values, moments, ages), whose blocks go to their new
    places; a block that comes in starts at 0, also where it was active before.
    """
    bits.remove(mask, total, dropped)
    mask.bitwise_or_(regrown)
    bases.copy_(bits.bases(mask))
    for state in states:
        close_up(state, dropped)
    stayed = bits.stayed(regrown, mask, total, len(dropped))
    for state in states:
        spread(state, stayed)


def close_up(state: Tensor, dropped: Tensor) -> None:
    """Move the blocks of a state that are not `dropped` to its front, in order and in place; what
    is behind them is undefined.
    """
    blocks = state.view(len(dropped), -1)
    end = 0
    for start, stop in portions(len(blocks)):  # from the left: a portion is read before anything is written over it
        kept = blocks[start:stop][~dropped[start:stop]]
        blocks[end : end + len(kept)] = kept
        end += len(kept)


def spread(state: Tensor, stayed: Tensor) -> None:
    """Move the blocks at the front of a state to where `stayed`, in order and in place; the others
    become 0.
    """
    blocks = state.view(len(stayed), -1)
    end = sum(int(stayed[start:stop].sum()) for start, stop in portions(len(blocks)))
    for start, stop in reversed(list(portions(len(blocks)))):  # from the right, for the same reason
        here = stayed[start:stop]
        count = int(here.sum())
        kept = blocks[end - count : end].clone()
        blocks[start:stop] = 0
        blocks[start:stop][here] = kept
        end -= count
