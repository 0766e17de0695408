"""Compact storage in C: to dense memory and from it, single weights and runs. Tiles, and dtypes
that no training step has, are left to the twin in torch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from raysparse.kernels.native.library import function
from raysparse.kernels.torch import storage

_SHORT = {torch.float32: "f32", torch.bfloat16: "bf16"}


def expand(values: Tensor, mask: Tensor, bases: Tensor, out: Tensor, tile: int = 0) -> None:
    """Fill dense `out` with the active values, in its dtype, and zeros."""
    if tile or not _is_done("expand", values, mask, bases, out, sizes=out.shape):
        storage.expand(values, mask, bases, out, tile)


def compact_accumulate(dense: Tensor, mask: Tensor, bases: Tensor, grad: Tensor, tile: int = 0) -> None:
    """grad += the active blocks of `dense`."""
    if tile or not _is_done("compact", dense, mask, bases, grad, sizes=dense.shape):
        storage.compact_accumulate(dense, mask, bases, grad, tile)


def accumulate(dense: Tensor, grad: Tensor) -> None:
    """grad += `dense`, of which every entry is active."""
    if not _is_done("accumulate", dense, grad, sizes=[grad.numel()]):
        storage.accumulate(dense, grad)


def _is_done(name: str, *tensors: Tensor, sizes: Iterable[int]) -> bool:
    """Call the compiled operation from the first tensor's dtype to the last's; False if there is
    none.
    """
    operation = function(f"{name}_{_SHORT.get(tensors[0].dtype)}_{_SHORT.get(tensors[-1].dtype)}")
    if operation is None or not all(t.is_contiguous() for t in tensors):
        return False
    operation(*(t.data_ptr() for t in tensors), *sizes, torch.get_num_threads())
    return True
