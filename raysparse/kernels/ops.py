"""The one door to the operations on compact storage: torch reference or Triton, by where the
tensors are.

A matrix is `mask` (int32 words, one bit a block) and `bases` (int32, active blocks before every
1,024). Dense memory is (blocks, size) for single weights and runs, and (rows, columns) with `tile`
for tiles.

Every operation is a `torch.library.custom_op`, so that it is one node for torch.compile, declares
what it writes to, and has a fake twin that knows shapes alone. Called eagerly, one that is not
differentiable skips torch's dispatcher, which costs the host 50 us a call, as much as a product of
a small model takes on a GPU.

CUDA tensors take Triton, all others the reference; `using` overrides that, for tests. Triton is
imported at the first use and need not be installed: without it CUDA tensors take the reference too,
after a warning (but tile products are refused).

Differentiable: `expanded` in its values, `tile_product` in x and tiles. What only fills memory of
its caller is not.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor
from torch.library import custom_op

from raysparse.kernels import bitmask, reference, selection, tiles
from raysparse.kernels.tile_lists import TileLists

_forced: ContextVar[str | None] = ContextVar("kernels", default=None)


@contextlib.contextmanager
def using(kernels: Literal["reference", "triton"]) -> Iterator[None]:
    """Take these kernels inside the `with` whatever the device; "triton" on a CPU needs its
    interpreter.
    """
    token = _forced.set(kernels)
    try:
        yield
    finally:
        _forced.reset(token)


@functools.cache
def _has_triton() -> bool:
    found = importlib.util.find_spec("triton") is not None
    if not found:
        warnings.warn("triton is not installed: tensors on a GPU take the slower torch reference", stacklevel=2)
    return found


@functools.cache
def _module(part: str) -> Any:
    return importlib.import_module(f"raysparse.kernels.triton_{part}")


def _triton(tensor: Tensor, part: str) -> Any:
    """The module `triton_<part>` if `tensor` takes Triton, else None."""
    forced = _forced.get()
    is_wanted = forced == "triton" or (forced is None and tensor.is_cuda and _has_triton())
    return _module(part) if is_wanted else None


def _operation(*, mutates: tuple[str, ...] = (), fake: Callable[..., Tensor] | None = None) -> Callable[[Any], Any]:
    """Make a function the operator raysparse::<its name>, which torch.compile sees; eager calls go
    to the function itself.
    """

    def register(function: Any) -> Any:
        operator = custom_op(f"raysparse::{function.__name__}", function, mutates_args=mutates)
        if fake is not None:
            operator.register_fake(fake)

        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            if not torch.compiler.is_compiling():
                return function(*args, **named)
            return operator(*map(_signed, args), **{name: _signed(value) for name, value in named.items()})

        return call

    return register


def _signed(argument: Any) -> Any:
    """Philox keys have 64 bits, an operator's `int` is signed: the same bits as a signed number."""
    return argument - (1 << 64) if isinstance(argument, int) and argument >= 1 << 63 else argument


# --- masks and choosing blocks


@_operation(fake=lambda mask: mask.new_empty(-(-mask.numel() * bitmask.WORD // bitmask.GROUP)))
def bases(mask: Tensor) -> Tensor:
    """Active blocks before every group of 1,024, int32 (groups,)."""
    return (_triton(mask, "bits") or bitmask).bases(mask)  # type: ignore[no-any-return]


@_operation(mutates=("mask",))
def remove(mask: Tensor, total: int, dropped: Tensor) -> None:
    """Take the active blocks at the compact positions where `dropped`, bool (active,), out of the
    mask.
    """
    (_triton(mask, "bits") or selection).remove(mask, total, dropped)


@_operation(fake=lambda regrown, mask, total, active: mask.new_empty(active, dtype=torch.bool))
def stayed(regrown: Tensor, mask: Tensor, total: int, active: int) -> Tensor:
    """For each of the `active` blocks of the new mask, in order, whether it is none of the regrown,
    bool (active,).
    """
    return (_triton(mask, "bits") or selection).stayed(regrown, mask, total, active)  # type: ignore[no-any-return]


@_operation(
    fake=lambda values, size, k, *, noise=None, exponent=1.0: values.new_empty(values.numel() // size, dtype=torch.bool)
)  # fmt: skip
def weakest(values: Tensor, size: int, k: int, *, noise: int | None = None, exponent: float = 1.0) -> Tensor:
    """The k active blocks with the smallest sum of |w|, or by the soft rule; bool (active,). See
    `selection.weakest`.
    """
    return (_triton(values, "selection") or selection).weakest(values, size, k, noise=noise, exponent=exponent)  # type: ignore[no-any-return]


@_operation(fake=lambda mask, total, k, key: torch.empty_like(mask))
def regrow_at_random(mask: Tensor, total: int, k: int, key: int) -> Tensor:
    """k of the inactive blocks, uniformly, as a mask. See `selection.regrow_at_random`."""
    return (_triton(mask, "selection") or selection).regrow_at_random(mask, total, k, key)  # type: ignore[no-any-return]


@_operation(fake=lambda mask, scores, k: torch.empty_like(mask))
def regrow_largest(mask: Tensor, scores: Tensor, k: int) -> Tensor:
    """The k inactive blocks with the largest scores, float32 (total,) and not negative, as a
    mask.
    """
    return (_triton(mask, "selection") or selection).regrow_largest(mask, scores, k)  # type: ignore[no-any-return]


@_operation(fake=lambda mask, survivors, total, rows, per_row, key, scores=None: torch.empty_like(mask))
def regrow_in_rows(
    mask: Tensor, survivors: Tensor, total: int, rows: int, per_row: int, key: int, scores: Tensor | None = None
) -> Tensor:
    """As many new blocks in every row of blocks as it is short of. See `selection.regrow_in_rows`;
    one code for all devices.
    """
    return selection.regrow_in_rows(mask, survivors, total, rows, per_row, key, scores)


@_operation(mutates=("state",))
def close_up(state: Tensor, dropped: Tensor) -> None:
    """Blocks that are not `dropped` go to the front of the state, in order; what is behind them is
    undefined.
    """
    (_triton(state, "storage") or selection).close_up(state, dropped)


@_operation(mutates=("state",))
def spread(state: Tensor, stayed: Tensor) -> None:
    """Blocks at the front of the state go to the places where `stayed`, in order; others are 0."""
    (_triton(state, "storage") or selection).spread(state, stayed)


# --- the optimizer


@_operation(mutates=("values", "exp_avg", "exp_avg_sq"))
def adam_step(
    values: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    age: Tensor | None,
    step_size: Tensor,
    correction: Tensor,
    gradient_factor: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    noise: int,
) -> None:
    """One Adam step in place over flat tensors. See `reference.adam_step`."""
    (_triton(values, "adam") or reference).adam_step(
        values, grad, exp_avg, exp_avg_sq, age, step_size, correction,
        gradient_factor=gradient_factor, beta1=beta1, beta2=beta2, eps=eps, decay=decay, noise=noise,
    )  # fmt: skip


# --- compact and dense


@_operation(mutates=("out",))
def expand(values: Tensor, mask: Tensor, bases: Tensor, out: Tensor, tile: int = 0) -> None:
    """Fill dense `out` with the active values, in its dtype, and zeros."""
    fast = _triton(values, "storage")
    if fast:
        fast.expand(values, mask, bases, out, tile)
    elif tile:
        out.zero_()
        _tiles_of(out, tile)[_places(mask, out, values.numel(), tile)] = values.view(-1, tile, tile).to(out.dtype)
    else:
        reference.expand(values, mask, out)


@_operation(mutates=("grad",))
def compact_accumulate(dense: Tensor, mask: Tensor, bases: Tensor, grad: Tensor, tile: int = 0) -> None:
    """grad += the active blocks of `dense`."""
    fast = _triton(dense, "storage")
    if fast:
        fast.compact_accumulate(dense, mask, bases, grad, tile)
    elif tile:
        grad.view(-1, tile, tile).add_(_tiles_of(dense, tile)[_places(mask, dense, grad.numel(), tile)])
    else:
        reference.compact_accumulate(dense, mask, grad)


def _tiles_of(dense: Tensor, tile: int) -> Tensor:
    """The dense matrix as (tile row, tile column, tile, tile), a view."""
    rows, columns = dense.shape
    return dense.view(rows // tile, tile, columns // tile, tile).transpose(1, 2)


def _places(mask: Tensor, dense: Tensor, count: int, tile: int) -> tuple[Tensor, Tensor]:
    """(tile rows, tile columns) of the active tiles."""
    number = bitmask.positions(mask, dense.numel() // tile**2, count // tile**2)
    per_row = dense.shape[1] // tile
    return number // per_row, number % per_row


@custom_op("raysparse::expanded", mutates_args=())
def expanded(values: Tensor, mask: Tensor, bases: Tensor, shape: Sequence[int], tile: int = 0) -> Tensor:
    """A new dense tensor of `shape` with the active values, differentiable in them."""
    out = values.new_empty(shape)
    expand(values, mask, bases, out, tile)
    return out


@expanded.register_fake
def _(values: Tensor, mask: Tensor, bases: Tensor, shape: Sequence[int], tile: int = 0) -> Tensor:
    return values.new_empty(shape)


def _expanded_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, mask, bases, _, ctx.tile = inputs
    ctx.count = values.numel()
    ctx.save_for_backward(mask, bases)


def _expanded_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    grad = gradient.new_zeros(ctx.count)
    torch.ops.raysparse.compact_accumulate(gradient.contiguous(), *ctx.saved_tensors, grad, ctx.tile)
    return grad, None, None, None, None


expanded.register_autograd(_expanded_backward, setup_context=_expanded_setup)


# --- products with tiles; `where` is a TileLists, as the plain sequence that an operator can take


def _pairs(where: Sequence[Tensor]) -> list[tuple[int, int]]:
    return list(zip(where[0].tolist(), where[1].tolist(), strict=True))


@_operation(fake=lambda gradient, tiles, where, columns: gradient.new_empty(len(gradient), columns))
def tile_input_gradient(gradient: Tensor, tiles_: Tensor, where: Sequence[Tensor], columns: int) -> Tensor:
    """dx = dy W: dy (t, rows) -> (t, columns)."""
    fast = _triton(gradient, "tiles")
    if fast:
        return fast.input_gradient(gradient, tiles_, TileLists(*where), columns)  # type: ignore[no-any-return]
    return tiles.input_gradient(gradient, tiles_, _pairs(where), columns)


@_operation(mutates=("out",))
def tile_weight_gradient(gradient: Tensor, x: Tensor, where: Sequence[Tensor], out: Tensor) -> None:
    """out += the active tiles of dy^T x; out (active, side, side)."""
    fast = _triton(gradient, "tiles")
    if fast:
        fast.accumulate_weight_gradient(gradient, x, TileLists(*where), out)
    else:
        tiles.accumulate_weight_gradient(gradient, x, _pairs(where), out)


@custom_op("raysparse::tile_product", mutates_args=())
def tile_product(x: Tensor, tiles_: Tensor, where: Sequence[Tensor], rows: int) -> Tensor:
    """y = x W^T: x (t, columns) -> (t, rows), differentiable in x and the tiles (active, side,
    side).
    """
    fast = _triton(x, "tiles")
    if fast:
        return fast.product(x, tiles_, TileLists(*where), rows)  # type: ignore[no-any-return]
    return tiles.product(x, tiles_, _pairs(where), rows)


@tile_product.register_fake
def _(x: Tensor, tiles_: Tensor, where: Sequence[Tensor], rows: int) -> Tensor:
    return x.new_empty(len(x), rows)


def _tile_product_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, tiles_, where, _ = inputs
    ctx.save_for_backward(x, tiles_, *where)


def _tile_product_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, tiles_, *where = ctx.saved_tensors
    gradient = gradient.contiguous()
    dx = torch.ops.raysparse.tile_input_gradient(gradient, tiles_, where, x.shape[1])
    out = torch.zeros_like(tiles_)
    torch.ops.raysparse.tile_weight_gradient(gradient, x, where, out)
    return dx, out, [None] * len(where), None


tile_product.register_autograd(_tile_product_backward, setup_context=_tile_product_setup)
