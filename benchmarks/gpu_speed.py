"""What the kernels cost on a GPU: sections of `gpu_check`, which runs them.

Every figure stands beside what it must be judged by, measured in the same run: bandwidth beside
that of a copy, expanding beside the products that it serves, tile products beside dense ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from benchmarks.gpu_bench import Bench, Row, Task, ratio, relative_error, total
from raysparse.kernels import ops
from raysparse.kernels.tile_lists import tile_lists
from raysparse.kernels.triton import tiles as triton_tiles
from raysparse.model import loss, pointwise


def adam(bench: Bench) -> Iterator[Task]:
    """The fused step's bandwidth against that of a copy, bytes read and written."""
    for dtypes in ((torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)):
        yield {"values, moments": list(map(str, dtypes))}, partial(adam_row, bench, *dtypes)


def adam_row(bench: Bench, *dtypes: torch.dtype) -> Row:
    count = bench.pick(1 << 28, 1 << 10)
    copied, copy_ms = copy_case(bench, count)
    ms, moved = adam_case(bench, count, *dtypes)
    return {
        "weights": count, "bytes a weight": moved / count, "ms": ms,
        "copy GB/s": ratio(copied / 1e6, copy_ms), "GB/s": ratio(moved / 1e6, ms),
        "share of copy": ratio(ratio(moved, ms), ratio(copied, copy_ms)),
    }  # fmt: skip


def copy_case(bench: Bench, count: int) -> tuple[int, float | None]:
    """(bytes that a copy of so many float32 numbers moves, its milliseconds)."""
    source, target = torch.empty(2, count, device=bench.device)
    return 2 * source.nbytes, bench.ms(lambda: target.copy_(source))


def adam_case(bench: Bench, count: int, value: torch.dtype, moment: torch.dtype) -> tuple[float | None, int]:
    """(milliseconds, bytes that must move) of one step."""
    w, g = torch.zeros(2, count, dtype=value, device=bench.device)
    m, v = torch.zeros(2, count, dtype=moment, device=bench.device)
    age = torch.zeros(count, dtype=torch.uint8, device=bench.device)
    table, one = torch.ones(256, device=bench.device), torch.ones((), device=bench.device)
    settings: Any = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "noise": 7}
    ms = bench.ms(lambda: ops.adam_step(w, g, m, v, age, table, table, gradient_factor=one, **settings))
    return ms, 2 * (w.nbytes + m.nbytes + v.nbytes) + g.nbytes + age.nbytes


def operands(bench: Bench, tokens: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (tokens, columns), dy (tokens, rows) and a dense weight (rows, columns)."""
    shapes = (tokens, columns), (tokens, rows), (rows, columns)
    x, dy, weight = (torch.randn(shape, device=bench.device, dtype=torch.bfloat16) for shape in shapes)
    return x, dy, weight


def dense_products(bench: Bench, x: Tensor, dy: Tensor, weight: Tensor) -> float | None:
    """Milliseconds of forward, input gradient and weight gradient with a dense weight."""
    products = lambda: x @ weight.t(), lambda: dy @ weight, lambda: dy.t() @ x
    return total(*map(bench.ms, products))


def storage(bench: Bench) -> Iterator[Task]:
    """Two expands and a compact-accumulate, against the three dense products that they serve; and a
    topology update's parts.
    """
    shapes = bench.pick([(2048, 2048), (11008, 4096)], [(16, 64)])
    for (rows, columns), density in itertools.product(shapes, bench.densities):
        yield {"shape": [rows, columns], "density": density}, partial(storage_case, bench, rows, columns, density)


def storage_case(bench: Bench, rows: int, columns: int, density: float) -> Row:
    blocks, (mask, active) = rows * columns, bench.mask(rows * columns, density)
    x, dy, dense = operands(bench, bench.tokens, rows, columns)
    values, bases, k = torch.randn_like(dense).view(-1)[:active].clone(), ops.bases(mask), max(1, active // 5)
    products = dense_products(bench, x, dy, dense)
    expand = bench.ms(lambda: ops.expand(values, mask, bases, dense.view(-1, 1)))
    compact = bench.ms(lambda: ops.compact_accumulate(dense.view(-1, 1), mask, bases, values))
    dropped, grown = ops.weakest(values, 1, k), ops.regrow_at_random(mask, blocks, k, 5)
    return {
        "tokens": bench.tokens, "three products ms": products, "expand ms": expand, "compact ms": compact,
        "share of products": ratio(total(expand, expand, compact), products),
        "weakest ms": bench.ms(lambda: ops.weakest(values, 1, k)),
        "regrow ms": bench.ms(lambda: ops.regrow_at_random(mask, blocks, k, 5)),
        "exchange ms": bench.ms(
            lambda: ops.exchange(mask.clone(), bases.clone(), blocks, dropped, grown, values)
        ),
    }  # fmt: skip


def tile_products(bench: Bench) -> Iterator[Task]:
    """The three products over tiles, against the dense ones; masks at random and masks with as many
    tiles in every row.
    """
    shapes, sides = bench.pick([(2048, 2048), (4096, 4096)], [(48, 32)]), bench.pick((128, 64, 32), (16,))
    gains: dict[int, list[tuple[float, float]]] = {side: [] for side in sides}

    def measured(rows: int, columns: int, side: int, density: float, balanced: bool) -> Row:
        found = tile_case(bench, rows, columns, side, density, balanced=balanced)
        gains[side] += [] if found["dense / tiles"] is None or balanced else [(density, found["dense / tiles"])]
        return found

    for side, (rows, columns), density, balanced in itertools.product(sides, shapes, bench.densities, (False, True)):
        what = {"shape": [rows, columns], "tile": side, "density": density, "balanced": balanced}
        yield what, partial(measured, rows, columns, side, density, balanced)
    for side in sides:
        yield {"tile": side}, partial(break_even, gains[side])


def break_even(measured: list[tuple[float, float]]) -> Row:
    return {"row for counts.TILE_BREAK_EVEN": record.break_even(measured) if measured else None}


def tile_cuts(bench: Bench) -> Iterator[Task]:
    """Other ways to cut the products up than `triton.tiles.cut_of`: stages of the pipeline,
    depths and parts, at a density where tiles are to pay.
    """
    shape, density = bench.pick((4096, 4096), (48, 32)), bench.pick(0.125, 0.25)
    for side in bench.pick((128, 64), (16,)):
        usual = triton_tiles.cut_of(side, torch.bfloat16)
        cuts = [usual, usual._replace(stages=5), usual._replace(depth=max(16, usual.depth // 2), stages=5)]
        cuts += [usual._replace(part=side // 2, stages=4)]
        for cut in bench.pick(cuts, cuts[:2]):
            yield (
                {"tile": side, "density": density, **cut._asdict()},
                partial(with_cut, bench, cut, *shape, side, density),
            )


def with_cut(bench: Bench, cut: triton_tiles.Cut, rows: int, columns: int, side: int, density: float) -> Row:
    usual = triton_tiles.cut_of
    triton_tiles.cut_of = lambda side, dtype: cut
    try:
        return tile_case(bench, rows, columns, side, density, balanced=True)
    finally:
        triton_tiles.cut_of = usual


def tile_case(bench: Bench, rows: int, columns: int, side: int, density: float, *, balanced: bool) -> Row:
    x, dy, dense = operands(bench, bench.tokens, rows, columns)
    mask, active = bench.mask(rows * columns // side**2, density, rows=rows // side if balanced else 0)
    where, bases = tile_lists(mask, rows, columns, side, active), ops.bases(mask)
    tiles = dense.view(-1)[: active * side**2].clone().view(-1, side, side)
    grad, wanted = torch.zeros_like(tiles), torch.zeros_like(tiles)
    products_ms = dense_products(bench, x, dy, dense)
    ops.tile_weight_gradient(dy, x, where, grad)
    ops.compact_accumulate(dy.t() @ x, mask, bases, wanted.view(-1), side)
    ops.expand(tiles.view(-1), mask, bases, dense, side)
    errors = [
        relative_error(ops.tile_product(x, tiles, where, rows), x @ dense.t()),
        relative_error(ops.tile_input_gradient(dy, tiles, where, columns), dy @ dense),
        relative_error(grad, wanted),
    ]
    times = [
        bench.ms(lambda: ops.tile_product(x, tiles, where, rows)),
        bench.ms(lambda: ops.tile_input_gradient(dy, tiles, where, columns)),
        bench.ms(lambda: ops.tile_weight_gradient(dy, x, where, grad)),
    ]
    return {
        "tokens": bench.tokens, "forward, input, weight ms": times, "dense ms": products_ms,
        "dense / tiles": ratio(products_ms, total(*times)), "relative errors": errors, "equal": max(errors) < 1e-2,
    }  # fmt: skip


def between_products(bench: Bench) -> Iterator[Task]:
    """Rotary embedding and SwiGLU, forward and backward, against torch's own operations with
    autograd, and their bandwidth against that of a copy.
    """
    for name in ("rotary", "swiglu"):
        yield {"what": name}, partial(between, bench, name)


def between(bench: Bench, name: str) -> Row:
    heads, e, width = bench.pick((32, 64, 5504), (2, 8, 24))
    sequences, t = bench.pick((bench.tokens // 256, 256), (2, 3))
    wide = 3 * heads * e if name == "rotary" else 2 * width
    made = torch.randn(sequences, t, wide, device=bench.device, dtype=torch.bfloat16)
    table = torch.rand(t, e // 2, device=bench.device, dtype=torch.bfloat16).repeat(1, 2)

    def ours(x: Tensor) -> tuple[Tensor, ...]:
        return pointwise.turned([x], table, table, heads) if name == "rotary" else (pointwise.swiglu([x]),)

    def plain(x: Tensor) -> tuple[Tensor, ...]:
        if name == "swiglu":
            gate, up = x.chunk(2, -1)
            return (torch.nn.functional.silu(gate) * up,)
        q, k, v = (part.view(*part.shape[:2], heads, -1).transpose(1, 2) for part in x.chunk(3, -1))
        return pointwise.rotate(q, table, table), pointwise.rotate(k, table, table), v.contiguous()

    def both_ways(way: Callable[[Tensor], tuple[Tensor, ...]]) -> Tensor:
        x = made.detach().requires_grad_()
        found = way(x)
        return torch.autograd.grad(found, x, [one.detach() for one in found])[0]

    error = relative_error(both_ways(ours), both_ways(plain))
    ms, plain_ms = (bench.ms(partial(both_ways, way)) for way in (ours, plain))
    copied, copy_ms = copy_case(bench, bench.pick(1 << 28, 1 << 10))
    moved = 4 * made.nbytes  # rotary: all of it read and written, twice; SwiGLU: 2 read and 1 written, 3 and 2
    return {
        "tokens": sequences * t, "ms": ms, "torch ms": plain_ms, "torch / ours": ratio(plain_ms, ms),
        "share of copy": ratio(ratio(moved, ms), ratio(copied, copy_ms)),
        "relative error": error, "equal": error < 1e-2,
    }  # fmt: skip


def head(bench: Bench) -> Iterator[Task]:
    """The output head with its loss, forward and backward: ours, Liger-Kernel's if installed, and
    with all logits at once.
    """
    tokens, width, vocabulary = bench.pick((32_768, 2048, 32_000), (20, 16, 50))
    hidden = torch.randn(tokens, width, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocabulary, width, device=bench.device).mul_(0.02).bfloat16().requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=bench.device)

    def at_once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum")

    wanted: list[Tensor] = []
    for name, way in {"ours": loss.own_head_loss, "Liger": loss.liger_loss(), "all logits at once": at_once}.items():
        if way is not None:
            yield {"what": name, "tokens": tokens}, partial(head_case, bench, way, hidden, weight, targets, wanted)


def head_case(
    bench: Bench, way: Callable[..., Tensor], hidden: Tensor, weight: Tensor, targets: Tensor, wanted: list[Tensor]
) -> Row:
    """Milliseconds, peak bytes, and how far the gradients are from those of the first way."""

    def both_ways() -> list[Tensor]:
        return list(torch.autograd.grad(way(hidden, weight, targets), (hidden, weight)))

    gradients = both_ways()
    wanted.extend(gradients if not wanted else ())
    errors = [relative_error(mine, theirs) for mine, theirs in zip(gradients, wanted, strict=True)]
    del gradients
    bench.forget_peak()
    before = bench.peak()
    both_ways()
    peak, ms = bench.peak() - before, bench.ms(both_ways)
    return {"peak bytes besides": peak, "ms": ms, "relative errors": errors, "equal": max(errors) < 2e-2}
