"""The one door to the operations on compact storage and to those between its products: in plain
torch, in C or in Triton, by where the tensors are.

A matrix is `mask` (int32 words, one bit a block) and `bases` (int32, active blocks before every
1,024). Dense memory is (blocks, size) for single weights and runs, and (rows, columns) with `tile`
for tiles. What an operation does and takes stands at its definition in `raysparse/kernels/torch/`.

CUDA tensors take Triton; those of a CPU C, where there is such an operation and a compiler for it;
all others torch. `using` overrides that, for tests. Triton is imported at the first use and need
not be installed: without it CUDA tensors take torch too, after a warning. No operation is
differentiable: the layers above write gradients themselves, and torch.compile leaves them alone for
that reason, so operations need not be torch's own operators.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, TypeVar, cast

from torch import Tensor

from raysparse.kernels.native.library import library
from raysparse.kernels.torch import adam, bits, entropy, pointwise, selection, storage, tiles

Backend = Literal["torch", "native", "triton"]
# What there is in C, and what there is not in Triton, since torch's own is one kernel there.
PASSES = {"expand", "compact_accumulate", "accumulate", "cross_entropy", "adam_step"}
PLAIN = {"accumulate"}
Operation = TypeVar("Operation", bound=Callable[..., Any])
_forced: ContextVar[Backend | None] = ContextVar("kernels", default=None)


@contextlib.contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Take these kernels inside the `with` whatever the device; "triton" on a CPU needs its
    interpreter, and "native" takes torch where there is none in C.
    """
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


@functools.cache
def _has_triton() -> bool:
    found = importlib.util.find_spec("triton") is not None
    if not found:
        warnings.warn("triton is not installed: tensors on a GPU take the slower kernels of torch", stacklevel=3)
    return found


@functools.cache
def _twin(backend: Backend, subject: str, name: str) -> Callable[..., Any]:
    return cast(Callable[..., Any], getattr(importlib.import_module(f"raysparse.kernels.{backend}.{subject}"), name))


def _backend(first: Tensor, name: str) -> Backend:
    """Whose kernel an operation on this tensor takes."""
    backend = _forced.get()
    if backend is None:
        backend = "triton" if first.is_cuda and _has_triton() else "native" if first.device.type == "cpu" else "torch"
    if backend == "native":
        return backend if name in PASSES and library() is not None else "torch"
    return "torch" if name in PLAIN else backend


def _by_device(plain: Operation) -> Operation:
    """`plain`, or its twin where its first argument calls for that."""
    subject, name = plain.__module__.rpartition(".")[2], plain.__name__

    @functools.wraps(plain)
    def operation(first: Tensor, *others: Any, **named: Any) -> Any:
        backend = _backend(first, name)
        return (plain if backend == "torch" else _twin(backend, subject, name))(first, *others, **named)

    return cast(Operation, operation)


bases, survivors = _by_device(bits.bases), _by_device(bits.survivors)
weakest, regrow_in_rows = _by_device(selection.weakest), _by_device(selection.regrow_in_rows)
regrow_at_random, regrow_largest = _by_device(selection.regrow_at_random), _by_device(selection.regrow_largest)
expand, compact_accumulate = _by_device(storage.expand), _by_device(storage.compact_accumulate)
accumulate, exchange = _by_device(storage.accumulate), _by_device(storage.exchange)
cross_entropy = _by_device(entropy.cross_entropy)
adam_step = _by_device(adam.adam_step)
tile_product, tile_input_gradient = _by_device(tiles.product), _by_device(tiles.input_gradient)
tile_weight_gradient = _by_device(tiles.accumulate_weight_gradient)
rotary, rotary_gradient = _by_device(pointwise.rotary), _by_device(pointwise.rotary_gradient)
swiglu, swiglu_gradient = _by_device(pointwise.swiglu), _by_device(pointwise.swiglu_gradient)
