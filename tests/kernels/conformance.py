"""What every operation of every backend must make: cases, each with its answer by the plainest way
to write it down.

`CASES` are small and odd: sizes that no power of two divides, every pair of dtypes, densities from
one active block to all. Every layout meets every density in float32, and every pair of dtypes at
one density: how a number is read and rounded does not depend on where it lies. The functions that
make cases take any size, so that `benchmarks.gpu_check` asks for those of real models. Answers are
made of sorts and dense memory, on the device of the case, and know nothing of portions, ranks or
programs.

A backend passes if `cases.check` raises nothing for any case; `test_conformance` runs the backends
that the machine has. Whoever adds an operation adds its cases here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raysparse.kernels import bitmask, ops, philox
from raysparse.kernels.tile_lists import tile_lists
from tests.kernels.cases import BF16, DTYPES, FP32, Answer, Case
from tests.kernels.pointwise_cases import rotary_case, swiglu_case

Shape = tuple[int, ...]  # (blocks, size) of single weights and runs, (rows, columns, tile) of tiles
DENSITIES = (0.0, 0.25, 1.0)  # 0 stands for one active block
NONE = -1.0  # and this for none: a matrix keeps at least one, but its first mask is made from none
ADAM: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.01}


def random_mask(blocks: int, density: float, device: str = "cpu") -> tuple[Tensor, int]:
    """(mask, active blocks), at least one if the density is not `NONE`."""
    active = torch.rand(blocks, device=device) < density
    active[blocks // 2] = density != NONE
    return bitmask.pack(active), int(active.sum())


def active_blocks(mask: Tensor, blocks: int) -> Tensor:
    return bitmask.unpack(mask, blocks).nonzero().view(-1)


def packed(chosen: Tensor, blocks: int) -> Tensor:
    """The mask of the blocks numbered in `chosen`."""
    return bitmask.pack(torch.zeros(blocks, dtype=torch.bool, device=chosen.device).index_fill_(0, chosen, True))


# --- masks


def bases(blocks: int, density: float, *, device: str = "cpu") -> Case:
    mask, _ = random_mask(blocks, density, device)
    groups = torch.nn.functional.pad(bitmask.unpack(mask, blocks), (0, -blocks % 1024)).view(-1, 1024).sum(dim=1)
    return Case(ops.bases, (mask,), {}, {None: Answer((groups.cumsum(0) - groups).int())})


def survivors(blocks: int, density: float, *, device: str = "cpu") -> Case:
    mask, active = random_mask(blocks, density, device)
    dropped = torch.rand(active, device=device) < 0.3
    answer = packed(active_blocks(mask, blocks)[~dropped], blocks)
    with ops.using("torch"):
        return Case(ops.survivors, (mask, ops.bases(mask), blocks, dropped), {}, {None: Answer(answer)})


# --- choosing blocks


def weakest(active: int, size: int, share: float, dtype: torch.dtype, soft: bool, *, device: str = "cpu") -> Case:
    """Blocks of several weights get whole numbers, whose sums are exact in any order. In bfloat16
    most magnitudes are tied, and ties go by index.
    """
    count, k, key = active * size, round(share * active), philox.stream(8)
    values = torch.randint(-8, 9, (count,), device=device) if size > 1 else torch.randn(count, device=device)
    scores = values.to(dtype).float().abs().view(-1, size).sum(dim=1)
    if soft:
        uniform = philox.uniform(philox.words(key, 0, active, device=device))
        scores = scores**3 / -uniform.double().log().float()
    answer = torch.zeros(active, dtype=torch.bool, device=device)
    answer[scores.argsort(stable=True)[:k]] = True
    named = {"noise": key if soft else None, "exponent": 3.0}
    return Case(ops.weakest, (values.to(dtype), size, k), named, {None: Answer(answer)})


def regrow_at_random(blocks: int, density: float, share: float, *, device: str = "cpu") -> Case:
    mask, active = random_mask(blocks, density, device)
    k, key = round(share * (blocks - active)), philox.stream(blocks, active)
    inactive = active_blocks(~mask, blocks)
    words = philox.words(key, 0, blocks, device=device)[inactive]
    answer = packed(inactive[words.argsort(stable=True)[:k]], blocks)
    return Case(ops.regrow_at_random, (mask, blocks, k, key), {}, {None: Answer(answer)})


def regrow_largest(blocks: int, density: float, share: float, *, device: str = "cpu") -> Case:
    mask, active = random_mask(blocks, density, device)
    scores = torch.randint(0, 50, (blocks,), device=device).float()
    inactive, k = active_blocks(~mask, blocks), round(share * (blocks - active))
    answer = packed(inactive[(-scores[inactive]).argsort(stable=True)[:k]], blocks)
    return Case(ops.regrow_largest, (mask, scores, k), {}, {None: Answer(answer)})


def regrow_in_rows(rows: int, columns: int, per_row: int, scored: bool, *, device: str = "cpu") -> Case:
    """Inactive blocks first, then those that were active and do not survive, each by score or by
    random word.
    """
    active = torch.rand(rows, columns, device=device).argsort(dim=1) < per_row
    survives = active & (torch.rand(rows, columns, device=device) < 0.6)
    scores = torch.randint(0, 9, (rows, columns), device=device).float() if scored else None
    key = philox.words(7, 0, rows * columns, device=device).view(rows, columns) if scores is None else 9 - scores
    order = (key.double() + active * 2.0**33 + survives * 2.0**34).argsort(dim=1, stable=True)
    rank = order.argsort(dim=1)
    answer = bitmask.pack((rank < per_row - survives.sum(dim=1, keepdim=True)).flatten())
    masks = (bitmask.pack(flags.flatten()) for flags in (active, survives))
    arguments = (*masks, rows * columns, rows, per_row, 7, None if scores is None else scores.flatten())
    return Case(ops.regrow_in_rows, arguments, {}, {None: Answer(answer)})


# --- storage


def storage_case(shape: Shape, density: float, device: str) -> tuple[Tensor, Tensor, Tensor, int]:
    """(dense matrix, mask, places in dense memory of the compact weights, tile)."""
    rows, columns, tile = shape if len(shape) == 3 else (*shape, 0)
    side = tile or 1
    place = torch.arange(rows * columns, device=device).view(rows // side, side, -1, side).transpose(1, 2)
    place = place.reshape(-1, tile * tile or columns)
    mask, _ = random_mask(len(place), density, device)
    return torch.randn(rows, columns, device=device), mask, place[active_blocks(mask, len(place))].flatten(), tile


def expand(shape: Shape, density: float, stored: torch.dtype, dense_dtype: torch.dtype, *, device: str = "cpu") -> Case:
    dense, mask, place, tile = storage_case(shape, density, device)
    values = torch.randn(len(place), device=device).to(stored)
    values[:3] = torch.tensor([math.nan, math.inf, 3.4e38])[: len(values)]
    answer = torch.zeros_like(dense, dtype=dense_dtype)
    answer.view(-1)[place] = values.to(dense_dtype)
    out = torch.full_like(answer, math.nan)
    with ops.using("torch"):
        return Case(ops.expand, (values, mask, ops.bases(mask), out, tile), {}, {3: Answer(answer)})


def compact_accumulate(
    shape: Shape, density: float, stored: torch.dtype, dense_dtype: torch.dtype, *, device: str = "cpu"
) -> Case:
    dense, mask, place, tile = storage_case(shape, density, device)
    dense, grad = dense.to(dense_dtype), torch.randn(len(place), device=device).to(stored)
    answer = (grad.float() + dense.view(-1)[place].float()).to(stored)
    with ops.using("torch"):
        return Case(ops.compact_accumulate, (dense, mask, ops.bases(mask), grad, tile), {}, {3: Answer(answer)})


def exchange(shape: Shape, density: float, dtype: torch.dtype, *, device: str = "cpu") -> Case:
    """A third of the active blocks goes and as many come, one of those that go among them where
    another cannot. States of one number a block and of `size`.
    """
    blocks, size = shape
    mask, active = random_mask(blocks, density, device)
    was, dropped = active_blocks(mask, blocks), torch.rand(active, device=device) < 0.3
    candidates = torch.cat([active_blocks(~mask, blocks), was[dropped]])
    comes = candidates[: int(dropped.sum())]
    now = torch.cat([was[~dropped], comes]).sort().values
    states = [torch.randint(0, 256, (active * s,), device=device).to(d) for s, d in ((1, torch.uint8), (size, dtype))]
    dense = [torch.zeros(blocks, len(s) // active, dtype=s.dtype, device=device) for s in states]
    for state, there in zip(states, dense, strict=True):
        there[was[~dropped]] = state.view(active, -1)[~dropped]
    new = packed(now, blocks)
    with ops.using("torch"):
        answers = {0: new, 1: ops.bases(new), 5: dense[0][now].flatten(), 6: dense[1][now].flatten()}
        arguments = (mask, ops.bases(mask), blocks, dropped, packed(comes, blocks), *states)
    return Case(ops.exchange, arguments, {}, {where: Answer(values) for where, values in answers.items()})


def accumulate(shape: Shape, dense_dtype: torch.dtype, stored: torch.dtype, *, device: str = "cpu") -> Case:
    dense = torch.randn(shape, device=device).to(dense_dtype)
    grad = torch.randn(dense.numel(), device=device).to(stored)
    answer = Answer((grad.float() + dense.flatten().float()).to(stored))
    return Case(ops.accumulate, (dense, grad), {}, {1: answer})


# --- the loss


def cross_entropy(rows: int, columns: int, dtype: torch.dtype, *, device: str = "cpu") -> Case:
    """In float64. Logits far apart, and all alike and large, among others; with two of them, one is
    spoilt.
    """
    logits = torch.randn(rows, columns, device=device) * 4
    logits[0], logits[rows // 2, 0] = 3e6, 300.0
    logits[-1, columns // 2] = math.nan if columns == 2 else 0.0
    logits, targets = logits.to(dtype), torch.randint(columns, (rows,), device=device)
    exact = logits.double().log_softmax(1)
    right = torch.nn.functional.one_hot(targets, columns)
    rounding = 1e-5 if dtype == FP32 else 2**-8
    answers: dict[int | None, Answer] = {
        None: Answer(-exact[right.bool()].sum().float(), 1e-5),
        0: Answer((exact.exp() - right).to(dtype), rounding),
    }
    return Case(ops.cross_entropy, (logits, targets), {}, answers)


# --- the optimizer


def adam_step(count: int, size: int, dtype: torch.dtype, moments: torch.dtype, *, device: str = "cpu") -> Case:
    """In float64, to the last bits of float32: where storage is bfloat16 those move a value in some
    2^14 across a rounding. A `size` of 0 is a step without ages. The gradient becomes 0.
    """
    w, g = torch.randn(2, count, device=device).to(dtype)
    m, v = torch.randn(count, device=device).to(moments), torch.rand(count, device=device).to(moments)
    w[0], w[1], m[2] = math.inf, math.nan, -math.inf
    age = torch.randint(0, 256, (count // size,), device=device).to(torch.uint8) if size else None
    rate, unbias = torch.rand(256, device=device) * 0.1, torch.rand(256, device=device) + 0.5
    named = {**ADAM, "gradient_factor": torch.tensor(0.7, device=device), "noise": philox.stream(count, 4)}
    entry = w.new_zeros(count, dtype=torch.long) if age is None else age.long().repeat_interleave(size)
    gradient = g.double() * named["gradient_factor"].double()
    first = m.double() + (1 - ADAM["beta1"]) * (gradient - m.double())
    second = v.double() * ADAM["beta2"] + (1 - ADAM["beta2"]) * gradient**2
    step = rate.double()[entry] * first / (second.sqrt() * unbias.double()[entry] + ADAM["eps"])
    words = philox.words(named["noise"], 0, 2 * count, device=device).view(count, 2)
    answers: dict[int | None, Answer] = {
        0: rounded(w.double() * (1 - ADAM["decay"]) - step, dtype, words[:, 0]),
        1: Answer(torch.zeros_like(g)),
        2: rounded(first, moments, words[:, 0] << 16 & 0xFFFFFFFF),
        3: rounded(second, moments, words[:, 1]),
    }
    return Case(ops.adam_step, (w, g, m, v, age, rate, unbias), named, answers)


def rounded(exact: Tensor, dtype: torch.dtype, words: Tensor) -> Answer:
    """Exact values as they are stored: in bfloat16 by random words, up to one neighbour."""
    exact = exact.float()
    if dtype == FP32:
        return Answer(exact, rounding=1e-5)
    moved = (exact.view(torch.int32) + (words >> 16).int() & -65536).view(FP32)
    return Answer(torch.where(exact.isfinite(), moved, exact).to(BF16), 2**-7, 1e-3)


# --- products with tiles


def tile_case(
    which: str, shape: Shape, density: float, dtype: torch.dtype, stored: torch.dtype | None = None, *,
    device: str = "cpu",
) -> Case:  # fmt: skip
    """One of the three products, (tile rows, tile columns, side, tokens), against the dense one in
    float32; with one active tile, other rows and columns of tiles are empty. Gradients may be
    `stored` in another dtype than the product's.
    """
    rows, columns, side, tokens = shape
    mask, active = random_mask(rows * columns, density, device)
    where = tile_lists(mask, rows * side, columns * side, side, active)
    x, dy = (torch.randn(tokens, n * side, device=device).to(dtype) for n in (columns, rows))
    tiles = (torch.randn(active, side, side, device=device) / side).to(dtype)
    dense = torch.zeros(rows * columns, side, side, device=device)
    dense[active_blocks(mask, rows * columns)] = tiles.float()
    dense = dense.view(rows, columns, side, side).transpose(1, 2).reshape(rows * side, columns * side)
    rounding = 1e-5 if dtype == FP32 else 2**-7
    if which == "product":
        made = {None: Answer((x.float() @ dense.t()).to(dtype), rounding)}
        return Case(ops.tile_product, (x, tiles, where, rows * side), {}, made)
    if which == "input gradient":
        made = {None: Answer((dy.float() @ dense).to(dtype), rounding)}
        return Case(ops.tile_input_gradient, (dy, tiles, where, columns * side), {}, made)
    blocks = (dy.float().t() @ x.float()).view(rows, side, columns, side).transpose(1, 2).reshape(-1, side, side)
    total = tiles.to(stored) if stored else tiles
    answer = Answer((total.float() + blocks[active_blocks(mask, rows * columns)]).to(total.dtype), rounding)
    return Case(ops.tile_weight_gradient, (dy, x, where, total), {}, {3: answer})


# --- all of them, small and odd

BLOCKS = (1, 1024, 2500, 9000)
STORED: tuple[Shape, ...] = ((2500, 1), (1100, 3), (90, 130), (48, 80, 16), (64, 96, 32))
SIZES = ((1, 1), (2500, 1), (9000, 1), (1100, 3), (20, 300))  # blocks of a state, weights of each
TILED = ((3, 2, 16, 70), (2, 3, 32, 130), (1, 2, 64, 40), (2, 1, 128, 33))
SHARES = (0.0, 0.3, 1.0)
PRODUCTS = ("product", "input gradient", "weight gradient")
STORAGE: list[list[tuple[Any, ...]]] = [
    [STORED, (NONE, *DENSITIES), (FP32,), (FP32,)],
    *([STORED, (0.25,), (stored,), (dense,)] for stored, dense in ((BF16, FP32), (FP32, BF16), (BF16, BF16))),
]
# By operation, products of values to be tried.
GRID: dict[Callable[..., Case], list[list[tuple[Any, ...]]]] = {
    bases: [[BLOCKS, (NONE, *DENSITIES)]],
    survivors: [[BLOCKS, DENSITIES]],
    weakest: [
        [(1, 300, 2500), (1, 3, 16), SHARES, (FP32,), (False,)],
        [(300, 2500), (1, 3, 16), (0.3,), (BF16,), (False,)],
        [(2500,), (1,), SHARES, DTYPES, (True,)],
    ],
    regrow_at_random: [[(1, 2500), (NONE, *DENSITIES), SHARES]],
    regrow_largest: [[(1, 2500), DENSITIES, SHARES]],
    regrow_in_rows: [[(1, 9), (40, 60), (1, 25), (False, True)]],
    expand: STORAGE,
    compact_accumulate: STORAGE,
    accumulate: [[((1, 1), (33, 65)), DTYPES, DTYPES]],
    cross_entropy: [[(1, 7), (1, 2, 97, 5000), DTYPES]],
    exchange: [[SIZES, (0.0, 0.5, 1.0), (FP32,)], [SIZES, (0.5,), (BF16,)]],
    adam_step: [[(2304,), (0, 1, 3, 256), DTYPES, DTYPES]],
    tile_case: [
        [PRODUCTS, TILED, (0.0, 0.4, 1.0), (FP32,)],
        [PRODUCTS, TILED, (0.4,), (BF16,)],
        [PRODUCTS[2:], TILED, (0.4,), (BF16,), (FP32,)],
    ],
    rotary_case: [[("rotary", "its gradient"), ((1, 1, 1, 2), (2, 5, 3, 6), (1, 33, 2, 64)), DTYPES]],
    swiglu_case: [[("swiglu", "its gradient"), ((1, 1), (7, 24), (5, 1500)), (False, True), DTYPES]],
}
CALLS = [partial(make, *v) for make, grids in GRID.items() for grid in grids for v in itertools.product(*grid)]
CASES = {f"{call.func.__name__} {', '.join(str(a).removeprefix('torch.') for a in call.args)}": call for call in CALLS}
