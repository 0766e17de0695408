"""Compact storage in C: to dense memory and from it, single weights and runs. Tiles, and dtypes
that no training step has, are left to the twin in torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysparse.kernels.native.library import function
from raysparse.kernels.torch import storage

_SHORT = {torch.float32: "f32", torch.bfloat16: "bf16"}


def expand(values: Tensor, mask: Tensor, bases: Tensor, out: Tensor, tile: int = 0) -> None:
    """Fill dense `out` with the active values, in its dtype, and zeros."""
    operation = None if tile else _operation("expand", values, out)
    if operation is None:
        storage.expand(values, mask, bases, out, tile)
    else:
        operation(*(t.data_ptr() for t in (values, mask, bases, out)), *out.shape, torch.get_num_threads())


def compact_accumulate(dense: Tensor, mask: Tensor, bases: Tensor, grad: Tensor, tile: int = 0) -> None:
    """grad += the active blocks of `dense`."""
    operation = None if tile else _operation("compact", dense, grad)
    if operation is None:
        storage.compact_accumulate(dense, mask, bases, grad, tile)
    else:
        operation(*(t.data_ptr() for t in (dense, mask, bases, grad)), *dense.shape, torch.get_num_threads())


def accumulate(dense: Tensor, grad: Tensor) -> None:
    """grad += `dense`, of which every entry is active."""
    operation = _operation("accumulate", dense, grad)
    if operation is None:
        storage.accumulate(dense, grad)
    else:
        operation(dense.data_ptr(), grad.data_ptr(), grad.numel(), torch.get_num_threads())


def _operation(name: str, source: Tensor, target: Tensor) -> Any:
    """The compiled one from one tensor's dtype to the other's, or None."""
    if not (source.is_contiguous() and target.is_contiguous()):
        return None
    return function(f"{name}_{_SHORT.get(source.dtype)}_{_SHORT.get(target.dtype)}")
