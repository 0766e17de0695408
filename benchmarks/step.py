"""Time of a training step and of its parts, as ratios within one run: sparse against dense, fused
against separate operations.

Run it: `python -m benchmarks.step` (about ten minutes on two cores), or some of it with `--only`.
Every figure is a ratio of two things that ran in turn, pair by pair, so it holds although the
machine's speed drifts; the seconds beside it are medians, for orientation. Only a run of everything
is recorded. `--tiles` prints the table behind `counts.TILE_BREAK_EVEN`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain_llama, record
from raysparse.kernels import bitmask, ops
from raysparse.kernels.tile_lists import tile_lists
from raysparse.placement import Placement
from raysparse.sparsity.arena import FROM_THE_START
from raysparse.sparsity.optimizer import Smet, age_tables
from raysparse.sparsity.topology import Topology
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, Precision, SparsitySpec, TrialSpec
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState
from raysparse.train.step import accumulate_gradients, train_step

MODELS = {
    512: ModelSpec(hidden=512, intermediate=1408, layers=4, heads=8, vocab_size=4096, context=256),
    1024: ModelSpec(hidden=1024, intermediate=2816, layers=2, heads=16, vocab_size=4096, context=256),
}
SPARSE: dict[str, dict[str, Any]] = {
    "element": {"layout": "element"},
    "element, resident": {"layout": "element"},
    "tile 64": {"layout": "tile", "block": 64},
    "tile 128": {"layout": "tile", "block": 128},
}
DENSITIES = (0.5, 0.25, 0.125, 0.0625)
OTHERS = {512: (0.25, 0.0625), 1024: (0.125,)}  # of other layouts than single weights, by width
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16_master")


def trial(precision: Precision, hidden: int = 512, **sparsity: Any) -> TrialSpec:
    return TrialSpec(
        model=MODELS[hidden],
        sparsity=SparsitySpec(**sparsity),
        data=DataSpec(unique_tokens=2**22),
        optimizer=OptimizerSpec(batch_sequences=8),
        precision=precision,
    )


def stepper(spec: TrialSpec, *, resident: bool = False, compiled: bool = False) -> Any:
    state, batches = TrainState(spec, Placement(resident=resident, compile=compiled)), RandomBatches(spec)
    return lambda: train_step(state, batches)  # type: ignore[arg-type]


def plain_steps(rounds: int) -> list[dict[str, Any]]:
    """Our dense step against that of a LLaMA in plain torch, eager and compiled."""
    rows = []
    for compiled, precision, hidden in itertools.product((False, True), PRECISIONS, MODELS):
        spec = trial(precision, hidden, method="dense", density=1.0)
        tokens = torch.from_numpy(RandomBatches(spec).rows)
        plain = plain_llama.stepper(
            spec.model, tokens, micro_batch=len(tokens), precision=spec.precision, compiled=compiled
        )
        found = record.alternate(plain, stepper(spec, compiled=compiled), rounds=rounds)
        rows.append({
            "what": "dense step", "compiled": compiled, "dtype": precision, "hidden": hidden,
            "plain s": found[0], "ours s": found[1], "plain / ours": found[2],
        })  # fmt: skip
    return rows


def plain_stepper(spec: TrialSpec) -> Any:
    """SMET as one would first write it: dense weights, gradients, moments and ages, a mask over
    them, an operation a line.
    """
    dense = spec.replace(sparsity=spec.sparsity.replace(method="dense", density=1.0))
    state, batches = TrainState(dense, Placement()), RandomBatches(spec)
    arena, optimizer = state.weights.arena, spec.optimizer
    mask = torch.rand(arena.values.numel()) < spec.sparsity.density
    age = torch.full((len(mask),), FROM_THE_START, dtype=torch.uint8)
    arena.values.mul_(mask)

    def step() -> None:
        state.step += 1
        accumulate_gradients(state, batches)  # type: ignore[arg-type]
        arena.grad.copy_(arena.grad * mask)
        factor = state.optimizer.clip_factor(state.optimizer.gradient_norm())
        tables = age_tables(optimizer, spec.sparsity, rate=optimizer.lr, step=state.step)
        separate_adam(
            arena.values, arena.grad, arena.exp_avg, arena.exp_avg_sq, age, *tables, gradient_factor=factor,
            beta1=optimizer.beta1, beta2=optimizer.beta2, eps=optimizer.eps, decay=0.0, noise=0,
        )  # fmt: skip
        for name in ("tables", "norms"):
            Smet(spec, [state.groups[name]]).step(state.step, factor)
        arena.grad.zero_()

    return step


def whole_steps(precision: Precision, hidden: int, rounds: int) -> list[dict[str, Any]]:
    """The whole step, 2,048 tokens, against the dense one in the same dtype."""
    dense = stepper(trial(precision, hidden, method="dense", density=1.0))
    rows = []
    for name, layout in SPARSE.items():
        for density in DENSITIES if name == "element" else OTHERS[hidden]:
            spec = trial(precision, hidden, method="smet", density=density, **layout)
            found = record.alternate(dense, stepper(spec, resident="resident" in name), rounds=rounds)
            rows.append(whole_step_row(precision, hidden, name, density, found))
    spec = trial(precision, hidden, method="smet", density=0.25)
    found = record.alternate(dense, plain_stepper(spec), rounds=rounds)
    return [*rows, whole_step_row(precision, hidden, "dense storage and a mask, plain torch", 0.25, found)]


def whole_step_row(
    precision: Precision, hidden: int, layout: str, density: float, found: tuple[float, float, float]
) -> dict[str, Any]:
    return {
        "what": "whole step", "dtype": precision, "hidden": hidden, "layout": layout, "density": density,
        "dense s": found[0], "sparse s": found[1], "dense / sparse": found[2],
    }  # fmt: skip


def storage(rounds: int) -> list[dict[str, Any]]:
    """Expanding and compact-accumulating against one of the products that they serve."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        x, dense = torch.randn(2048, 512).to(dtype), torch.randn(1408, 512).to(dtype)
        for density in DENSITIES:
            mask = bitmask.pack(torch.rand(dense.numel()) < density)
            values = torch.zeros(int(bitmask.unpack(mask, dense.numel()).sum()), dtype=dtype)
            flat, bases = dense.view(-1, 1), ops.bases(mask)
            row: dict[str, Any] = {"what": "storage", "dtype": str(dtype)[6:], "density": density}
            for name, operation in (
                ("expand", lambda v=values, m=mask, b=bases, out=flat: ops.expand(v, m, b, out)),
                ("compact", lambda v=values, m=mask, b=bases, out=flat: ops.compact_accumulate(out, m, b, v)),
            ):
                row[f"{name} / product"] = record.alternate(
                    operation, lambda x=x, w=dense: x @ w.t(), rounds=2 * rounds
                )[2]
            rows.append(row)
    return rows


def separate_adam(
    values: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    age: Tensor,
    step_size: Tensor,
    correction: Tensor,
    *,
    gradient_factor: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    noise: int,
) -> None:
    """SMET's Adam as one would first write it: one torch operation a line, each over the whole
    arena.
    """
    entry = age.int()
    gradient = grad * gradient_factor
    exp_avg.copy_(beta1 * exp_avg + (1 - beta1) * gradient)
    exp_avg_sq.copy_(beta2 * exp_avg_sq + (1 - beta2) * gradient * gradient)
    denominator = exp_avg_sq.sqrt() * correction[entry] + eps
    values.copy_(values * (1 - decay))
    values.sub_(step_size[entry] * exp_avg / denominator)


def optimizer_steps(rounds: int) -> list[dict[str, Any]]:
    """SMET's Adam in portions against the same in separate operations.

    The second of the sizes is past what the C library's allocator keeps: there every temporary is
    new memory from the system.
    """
    rows = []
    generator = torch.Generator().manual_seed(0)
    most = torch.get_num_threads()
    for n, threads in itertools.product((4_000_000, 16_000_000), (1, most)):
        torch.set_num_threads(threads)
        w, g, m, v = (torch.randn(n, generator=generator).abs_() for _ in range(4))
        age = torch.randint(0, 256, (n,), generator=generator).to(torch.uint8)
        tables = torch.rand(256, generator=generator) * 1e-3, 1 + torch.rand(256, generator=generator)
        settings: dict[str, Any] = {
            "gradient_factor": torch.tensor(1.0), "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "noise": 1,
        }  # fmt: skip
        state = w, g, m, v, age, *tables
        separate, ours, ratio = record.alternate(
            lambda state=state, settings=settings: separate_adam(*state, **settings),
            lambda state=state, settings=settings: ops.adam_step(*state, **settings),
            rounds=rounds,
        )
        rows.append({
            "what": "SMET-Adam", "weights": n, "threads": threads,
            "separate s": separate, "ours s": ours, "separate / ours": ratio,
        })  # fmt: skip
    torch.set_num_threads(most)
    return rows


def topology_updates(rounds: int) -> list[dict[str, Any]]:
    """One topology update against one dense training step: what an update every 100 steps costs."""
    spec = trial("fp32", method="smet", density=0.25)
    state, steps = TrainState(spec, Placement()), itertools.count(100, 100)
    dense = stepper(trial("fp32", method="dense", density=1.0))
    update, step, ratio = record.alternate(
        lambda: Topology(spec).update(state.weights, next(steps)), dense, rounds=rounds
    )
    return [{"what": "topology update, d = 0.25", "update s": update, "dense step s": step, "update / step": ratio}]


def tile_products(rounds: int) -> list[dict[str, Any]]:
    """The three products over active tiles against the dense ones, 2,048 tokens, 1024 x 512."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        x, gradient, weight = (torch.randn(*shape).to(dtype) for shape in ((2048, 512), (2048, 1024), (1024, 512)))
        total = torch.zeros_like(weight)

        def dense(x: Tensor = x, dy: Tensor = gradient, w: Tensor = weight, total: Tensor = total) -> None:
            x @ w.t(), dy @ w, total.addmm_(dy.t(), x)

        for side in (16, 32, 64, 128):
            for density in (0.7, 0.5, 0.25, 0.125, 0.0625):
                count = max(1, round(density * 1024 * 512 / side**2))
                chosen = torch.randperm(1024 * 512 // side**2) < count
                where = tile_lists(bitmask.pack(chosen), 1024, 512, side, count)
                values, grad = torch.randn(count, side, side).to(dtype), torch.zeros(count, side, side, dtype=dtype)

                def sparse(
                    x: Tensor = x,
                    dy: Tensor = gradient,
                    values: Tensor = values,
                    grad: Tensor = grad,
                    where: Any = where,
                ) -> None:
                    ops.tile_product(x, values, where, 1024)
                    ops.tile_input_gradient(dy, values, where, 512)
                    ops.tile_weight_gradient(dy, x, where, grad)

                ratio = record.alternate(dense, sparse, rounds=rounds)[2]
                rows.append({"dtype": str(dtype)[6:], "tile": side, "density": density, "dense / tiles": ratio})
    return rows


def break_even(rows: list[dict[str, Any]], dtype: str, side: int) -> float:
    """The density below which tiles of this side are faster in this dtype."""
    return record.break_even(
        [(r["density"], r["dense / tiles"]) for r in rows if (r["dtype"], r["tile"]) == (dtype, side)]
    )


SECTIONS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "adam": optimizer_steps,
    "storage": storage,
    "update": topology_updates,
    "plain": plain_steps,
    **{
        f"{precision}-{hidden}": functools.partial(whole_steps, precision, hidden)
        for precision, hidden in itertools.product(PRECISIONS, MODELS)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of each comparison (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections, not recorded")
    parser.add_argument("--tiles", action="store_true", help="only the table of tile products")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.tiles:
        rows = tile_products(args.rounds)
        record.show("Three products over active tiles against dense ones", rows)
        for dtype, side in dict.fromkeys((r["dtype"], r["tile"]) for r in rows):
            print(f"{dtype}, tiles of {side}: faster below a density of {break_even(rows, dtype, side):.2f}")
        print(record.save("tiles-cpu", rows))
        return
    rows = []
    for name in args.only or SECTIONS:
        found = SECTIONS[name](args.rounds)
        record.show(str(found[0]["what"]), found)
        rows += found
    if not args.only:
        print(record.save("step-cpu", rows))


if __name__ == "__main__":
    main()
