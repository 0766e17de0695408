"""What the kernels cost on a GPU: the second half of `gpu_check`, which runs it.

Every figure stands beside what it must be judged by, measured in the same run: bandwidth beside
that of a copy, expanding beside the products that it serves, tile products and whole steps beside
dense ones.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import record
from raysparse import counts, ladder
from raysparse.kernels import bitmask, ops, philox
from raysparse.kernels.tile_lists import tile_lists
from raysparse.model import loss
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, Placement, SparsitySpec, TrialSpec
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState
from raysparse.train.step import train_step

Row = dict[str, Any]


class Bench:
    """The device, the sizes that fit it, and a clock."""

    def __init__(self, *, smoke: bool):
        self.smoke = smoke
        self.device = "cpu" if smoke else "cuda"
        self.tokens = self.pick(16_384, 40)
        self.densities = self.pick((0.5, 0.25, 0.125, 0.0625), (0.25,))

    def pick(self, full: Any, smoke: Any) -> Any:
        return smoke if self.smoke else full

    def forget_peak(self) -> None:
        if not self.smoke:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """Bytes allocated at most since `forget_peak`, once all work is done."""
        if self.smoke:
            return 0
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()

    def ms(self, function: Callable[[], Any]) -> float | None:
        """Median milliseconds on the device, with a cold cache; None in the interpreter, where time
        means nothing.
        """
        if self.smoke:
            function()
            return None
        from triton.testing import do_bench

        return float(do_bench(function, warmup=50, rep=200, return_mode="median"))

    def mask(self, blocks: int, density: float, *, rows: int = 0) -> tuple[Tensor, int]:
        """`blocks` x density active blocks at random, made as a run makes them; with `rows`, as
        many in each row of blocks.
        """
        active = max(1, round(density * blocks))
        empty = torch.zeros(bitmask.words(blocks), dtype=torch.int32, device=self.device)
        key = philox.stream(blocks, active)
        if not rows:
            return ops.regrow_at_random(empty, blocks, active, key), active
        per_row = max(1, active // rows)
        return ops.regrow_in_rows(empty, empty, blocks, rows, per_row, key), per_row * rows


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None else None


def total(*times: float | None) -> float | None:
    return None if None in times else sum(t for t in times if t is not None)


def adam(bench: Bench) -> Iterator[Row]:
    """The fused step's bandwidth against that of a copy, bytes read and written."""
    count = bench.pick(1 << 28, 1 << 10)
    source, target = torch.empty(2, count, device=bench.device)
    copied, copy_ms = 2 * source.nbytes, bench.ms(lambda: target.copy_(source))
    for dtypes in ((torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, torch.float32)):
        ms, moved = adam_case(bench, count, *dtypes)
        yield {
            "weights": count, "values, moments": list(map(str, dtypes)), "bytes a weight": moved / count, "ms": ms,
            "copy GB/s": ratio(copied / 1e6, copy_ms), "GB/s": ratio(moved / 1e6, ms),
            "share of copy": ratio(ratio(moved, ms), ratio(copied, copy_ms)),
        }  # fmt: skip


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


def storage(bench: Bench) -> Iterator[Row]:
    """Two expands and a compact-accumulate, against the three dense products that they serve; and a
    topology update's parts.
    """
    for (rows, columns), density in itertools.product(
        bench.pick([(2048, 2048), (11008, 4096)], [(16, 64)]), bench.densities
    ):
        yield {"shape": [rows, columns], "density": density, **storage_case(bench, rows, columns, density)}


def storage_case(bench: Bench, rows: int, columns: int, density: float) -> Row:
    blocks, (mask, active) = rows * columns, bench.mask(rows * columns, density)
    x, dy, dense = operands(bench, bench.tokens, rows, columns)
    values, bases, k = torch.randn_like(dense).view(-1)[:active].clone(), ops.bases(mask), max(1, active // 5)
    products = dense_products(bench, x, dy, dense)
    expand = bench.ms(lambda: ops.expand(values, mask, bases, dense.view(-1, 1)))
    compact = bench.ms(lambda: ops.compact_accumulate(dense.view(-1, 1), mask, bases, values))
    dropped, grown = ops.weakest(values, 1, k), ops.regrow_at_random(mask, blocks, k, 5)
    new = mask.clone()
    ops.remove(new, blocks, dropped)
    stayed = ops.stayed(grown, new.bitwise_or_(grown), blocks, active)
    return {
        "tokens": bench.tokens, "three products ms": products, "expand ms": expand, "compact ms": compact,
        "share of products": ratio(total(expand, expand, compact), products),
        "weakest ms": bench.ms(lambda: ops.weakest(values, 1, k)),
        "regrow ms": bench.ms(lambda: ops.regrow_at_random(mask, blocks, k, 5)),
        "move ms": total(bench.ms(lambda: ops.close_up(values, dropped)), bench.ms(lambda: ops.spread(values, stayed))),
    }  # fmt: skip


def tile_products(bench: Bench) -> Iterator[Row]:
    """The three products over tiles, against the dense ones; masks at random and masks with as many
    tiles in every row.
    """
    shapes, sides = bench.pick([(2048, 2048), (4096, 4096)], [(48, 32)]), bench.pick((32, 64, 128), (16,))
    gains: dict[int, list[tuple[float, float]]] = {side: [] for side in sides}
    for (rows, columns), side, density, balanced in itertools.product(shapes, sides, bench.densities, (False, True)):
        found = tile_case(bench, rows, columns, side, density, balanced=balanced)
        gains[side] += [] if found["dense / tiles"] is None or balanced else [(density, found["dense / tiles"])]
        yield {"shape": [rows, columns], "tile": side, "density": density, "balanced": balanced, **found}
    for side, measured in gains.items():
        yield {"tile": side, "row for counts.TILE_BREAK_EVEN": record.break_even(measured) if measured else None}


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


def relative_error(mine: Tensor, wanted: Tensor) -> float:
    return float((mine.float() - wanted.float()).norm() / wanted.float().norm())


def head(bench: Bench) -> Iterator[Row]:
    """The output head with its loss, forward and backward: ours, Liger-Kernel's if installed, and
    with all logits at once.
    """
    tokens, width, vocabulary = bench.pick((32_768, 2048, 32_000), (20, 16, 50))
    hidden = torch.randn(tokens, width, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(vocabulary, width, device=bench.device).mul_(0.02).bfloat16().requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=bench.device)

    def at_once(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy((hidden @ weight.t()).float(), targets, reduction="sum")

    ways = {"ours": loss.own_head_loss, "Liger-Kernel": loss.liger_loss(), "all logits at once": at_once}
    wanted: list[Tensor] = []
    for name, way in ways.items():
        if way is None:
            yield {"what": name, "says": "not installed"}
            continue
        yield {
            "what": name,
            "tokens": tokens,
            **attempt(functools.partial(head_case, bench, way, hidden, weight, targets, wanted)),
        }


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


# --- whole steps


def whole_steps(bench: Bench) -> Iterator[Row]:
    """Tokens a second and peak memory against the dense step of the same model: 32,768 tokens a
    step, 8,192 at a time.
    """
    tiny = ModelSpec(hidden=32, intermediate=32, layers=1, heads=2, vocab_size=50, context=16)
    sizes = bench.pick({name: ladder.model(name) for name in ("smet-130m", "smet-350m", "smet-1b")}, {"tiny": tiny})
    tileable = dict(sizes)  # 350m and 1b have widths that no tile divides: 1b is padded a little, 350m left out
    if not bench.smoke:
        del tileable["smet-350m"], tileable["smet-1b"]
        tileable["smet-1b, mlp 5504"] = sizes["smet-1b"].replace(intermediate=5504, name="")
    cases: list[tuple[str, ModelSpec, Row]] = [
        (name, model, {"resident": resident}) for name, model in sizes.items() for resident in (False, True)
    ]
    cases += [(n, m, {"layout": "tile", "block": b}) for n, m in tileable.items() for b in bench.pick((64, 128), (16,))]
    dense: dict[str, Row] = {}
    for name, model, layout in cases:
        if name not in dense:
            dense[name] = attempt(functools.partial(one_step, bench, model, 1.0))
            yield {"model": name, "layout": "dense", "density": 1.0, **dense[name]}
        for density in bench.densities:
            row = attempt(functools.partial(one_step, bench, model, density, **layout))
            against = {
                f"{key} / dense": ratio(row.get(key), dense[name].get(key)) for key in ("tokens/s", "peak bytes")
            }
            yield {"model": name, "layout": {"layout": "element", **layout}, "density": density, **row, **against}


def one_step(bench: Bench, model: ModelSpec, density: float, *, resident: bool = False, **layout: Any) -> Row:
    """Seconds and peak bytes of a training step after warm-up, and of a topology update."""
    counts.TILE_BREAK_EVEN[bench.device, "bf16", layout.get("block", 1)] = (
        1.0  # tile products at any density: that is the question
    )
    sequences, micro_batch, steps = bench.pick((128, 32, 7), (2, 1, 1))
    spec = TrialSpec(
        model=model,
        sparsity=SparsitySpec(method="dense" if density == 1.0 else "smet", density=density, update_every=5, **layout),
        data=DataSpec(unique_tokens=sequences * model.context * 64),
        optimizer=OptimizerSpec(moments="bf16_stochastic", batch_sequences=sequences),
        precision="bf16",
    )
    batches: Any = RandomBatches(spec)
    state = TrainState(spec, Placement(device=bench.device, micro_batch=micro_batch, resident=resident))
    for _ in range(bench.pick(3, 0)):
        train_step(state, batches)
    bench.forget_peak()
    seconds = statistics.median(
        train_step(state, batches).seconds for _ in range(steps)
    )  # a step ends by reading its loss
    row = {
        "s": seconds,
        "tokens/s": spec.tokens_per_step / seconds,
        "peak bytes": bench.peak(),
        "held": state.bytes_by_kind(),
    }
    for _ in range(bench.pick(2, 1) if spec.sparsity.changes_topology else 0):  # the first compiles
        bench.forget_peak()
        started = time.perf_counter()
        state.topology.update(state.weights, 5)
        row |= {"update peak bytes": bench.peak(), "update s": time.perf_counter() - started}
    return row if not bench.smoke else {}


def attempt(function: Callable[[], Row]) -> Row:
    """Its row, or a row with its error: one shape that does not fit must not cost the others."""
    try:
        return function()
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


SECTIONS = (adam, storage, tile_products, head, whole_steps)
