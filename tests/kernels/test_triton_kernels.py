"""Every Triton kernel against its reference: on a GPU where there is one, else in the interpreter
(started by `test_triton`).

Shapes are odd on purpose and small: the interpreter takes 50 us for each operation of each program.
"""

import math
import os

import pytest
import torch

from raysparse.kernels import bitmask, ops, philox, selection
from raysparse.kernels.tile_lists import tile_lists

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (IS_INTERPRETED or torch.cuda.is_available()):
    pytest.skip(
        "neither a GPU nor Triton's interpreter; test_triton runs this file in the interpreter", allow_module_level=True
    )
DEVICE = "cpu" if IS_INTERPRETED else "cuda"

DENSITIES = [0.0, 1 / 16, 0.25, 0.5, 1.0]  # 0 stands for one active block
SHAPES = [
    (2500, 1),
    (1100, 3),
    (90, 130),
]  # blocks, size: three groups, runs that no power of two fits, runs wider than a program
TILED = [(48, 80, 16), (64, 96, 32)]  # rows, columns, tile
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def mask_of(blocks: int, density: float) -> tuple[torch.Tensor, int]:
    active = torch.rand(blocks) < density
    active[blocks // 2] = True
    return bitmask.pack(active), int(active.sum())


def both(operation, *args, mutated: int | None = None, **named):
    """(what Triton makes, what the reference makes), on the CPU; of an operation in place, the
    argument that it changed.
    """
    made = []
    for kernels, device in (("triton", DEVICE), ("reference", "cpu")):
        moved = [a.detach().to(device, copy=True) if isinstance(a, torch.Tensor) else a for a in args]
        with ops.using(kernels):
            out = operation(*moved, **{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in named.items()})
        made.append((out if mutated is None else moved[mutated]).cpu())
    return made


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("blocks", [1, 1024, 40_000])
def test_bases(blocks, density):
    mine, reference = both(ops.bases, mask_of(blocks, density)[0])
    assert torch.equal(mine, reference)


def dense_case(shape: tuple[int, ...], density: float) -> tuple[torch.Tensor, torch.Tensor, int, int]:
    """(dense, mask, active weights, tile) of (blocks, size) or (rows, columns, tile)."""
    rows, columns, tile = shape if len(shape) == 3 else (*shape, 0)
    size = tile * tile if tile else columns
    mask, active = mask_of(rows * columns // size, density)
    return torch.randn(rows, columns), mask, active * size, tile


@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in DTYPES], ids=str)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES + TILED, ids=str)
def test_expand_in_any_pair_of_dtypes(shape, density, dtypes):
    dense, mask, count, tile = dense_case(shape, density)
    values, out = torch.randn(count).to(dtypes[0]), torch.full_like(dense, math.nan, dtype=dtypes[1])
    mine, reference = both(ops.expand, values, mask, bitmask.bases(mask), out, tile, mutated=3)
    assert torch.equal(mine, reference)


@pytest.mark.parametrize("dtypes", [(a, b) for a in DTYPES for b in DTYPES], ids=str)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("shape", SHAPES + TILED, ids=str)
def test_compact_accumulate(shape, density, dtypes):
    dense, mask, count, tile = dense_case(shape, density)
    grad = torch.randn(count).to(dtypes[1])
    mine, reference = both(
        ops.compact_accumulate, dense.to(dtypes[0]), mask, bitmask.bases(mask), grad, tile, mutated=3
    )
    assert torch.equal(mine, reference)


@pytest.mark.parametrize("tile", [0, 16])
def test_a_mask_of_no_block_at_all(tile):
    """A matrix keeps at least one; what makes its first mask starts from none."""
    dense, blocks = torch.randn(48, 80), 15 if tile else 3840
    mask, none = torch.zeros(bitmask.words(blocks), dtype=torch.int32), torch.empty(0)
    shape = (48, 80) if tile else (3840, 1)
    for mine, reference in (
        both(ops.bases, mask),
        both(ops.expand, none, mask, bitmask.bases(mask), torch.full(shape, math.nan), tile, mutated=3),
        both(ops.compact_accumulate, dense.view(shape), mask, bitmask.bases(mask), none, tile, mutated=3),
        both(ops.regrow_at_random, mask, blocks, 7, 5),
        both(ops.regrow_at_random, mask, blocks, 0, 5),
    ):
        assert torch.equal(mine, reference)


def test_expand_keeps_nan_and_infinity():
    values = torch.tensor([math.nan, math.inf, -math.inf, 3.4e38]).view(torch.float32)
    mask = bitmask.pack(torch.ones(4, dtype=torch.bool))
    mine, reference = both(
        ops.expand, values, mask, bitmask.bases(mask), torch.empty(4, 1, dtype=torch.bfloat16), mutated=3
    )
    assert torch.equal(mine.isnan(), reference.isnan())
    assert torch.equal(mine[1:], reference[1:])


@pytest.mark.parametrize("size", [None, 1, 3, 256], ids=lambda s: f"ages of {s}")
@pytest.mark.parametrize("moments", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adam_step(dtype, moments, size):
    """Equal but for the last bits of float32; where storage is bfloat16 that moves a value in some
    2^14 across a rounding.
    """
    count = 2304
    w, g = torch.randn(2, count).to(dtype)
    m, v = torch.randn(count).to(moments), torch.rand(count).to(moments)
    age = None if size is None else torch.randint(0, 256, (count // size,), dtype=torch.uint8)
    tables = torch.rand(256) * 0.1, torch.rand(256) + 0.5
    for number, stored in ((0, dtype), (2, moments), (3, moments)):
        mine, reference = both(
            ops.adam_step, w, g, m, v, age, *tables, mutated=number, gradient_factor=torch.tensor(0.7),
            beta1=0.9, beta2=0.999, eps=1e-8, decay=0.01, noise=philox.stream(count, 4),
        )  # fmt: skip
        if stored == torch.float32:
            torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)
        else:
            assert (mine != reference).float().mean() < 1e-3
            torch.testing.assert_close(mine, reference, rtol=2**-7, atol=1e-6)


def test_adam_step_passes_what_is_not_finite():
    """As the reference does: nothing turns into a number again by rounding."""
    w = torch.tensor([math.inf, -math.inf, math.nan, 1.0]).bfloat16()
    zeros = torch.zeros(4).bfloat16()
    mine, reference = both(
        ops.adam_step, w, zeros, zeros, zeros, None, torch.tensor([0.1]), torch.tensor([1.0]), mutated=0,
        gradient_factor=torch.tensor(1.0), beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, noise=2**64 - 1,
    )  # fmt: skip
    assert torch.equal(mine.nan_to_num(7.0), reference.nan_to_num(7.0))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", [None, philox.stream(8)], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weakest_single_weights(dtype, noise, share):
    """bfloat16 has few distinct magnitudes: most of these keys are tied, and ties go by index."""
    values = torch.randn(2500).to(dtype)
    mine, reference = both(ops.weakest, values, 1, round(share * 2500), noise=noise, exponent=3.0)
    assert mine.sum() == round(share * 2500)
    assert torch.equal(mine, reference)


@pytest.mark.parametrize("size", [3, 4, 300, 4096])
def test_scores_of_blocks_are_pairwise_sums(size):
    from raysparse.kernels import triton_selection

    values = torch.randn(5 * size)
    scores = triton_selection.block_scores(values.to(DEVICE), size).cpu()
    assert torch.equal(scores, selection.pairwise_sums(values.abs().view(5, size)))


@pytest.mark.parametrize("size", [3, 16])
def test_weakest_blocks(size):
    """Values with few bits have exact sums in any order: then the choice is the reference's, ties
    included.
    """
    values = torch.randint(-8, 9, (300 * size,)).float()
    mine, reference = both(ops.weakest, values, size, 100)
    assert torch.equal(mine, reference)


@pytest.mark.skipif(not IS_INTERPRETED, reason="the message is the same anywhere")
def test_soft_rule_refuses_an_exponent_it_cannot_multiply_out():
    with ops.using("triton"), pytest.raises(ValueError, match=r"exponent is 2\.5"):
        ops.weakest(torch.ones(4), 1, 1, noise=1, exponent=2.5)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("density", DENSITIES)
def test_regrowth(density, share):
    mask, active = mask_of(2500, density)
    k = round(share * (2500 - active))
    scores = torch.randint(0, 50, (2500,)).float()
    for mine, reference in (
        both(ops.regrow_at_random, mask, 2500, k, philox.stream(k)),
        both(ops.regrow_largest, mask, scores, k),
    ):
        assert bitmask.unpack(mine, 2500).sum() == k
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("density", DENSITIES[:4])
@pytest.mark.parametrize(("blocks", "size"), [(2500, 1), (9000, 1), (1100, 3)])
def test_replacing_blocks(blocks, size, density):
    """A whole update: 9,000 blocks at a half are five groups, so that states move in several
    portions.
    """
    mask, active = mask_of(blocks, density)
    k = min(active, blocks - active) // 2
    dropped = selection.weakest(torch.rand(active), 1, k)
    survivors, expected = both(ops.remove, mask, blocks, dropped, mutated=0)
    assert torch.equal(survivors, expected)
    regrown = selection.regrow_at_random(mask, blocks, k, 5)
    stayed, expected = both(ops.stayed, regrown, survivors | regrown, blocks, active)
    assert torch.equal(stayed, expected)
    states = (
        torch.randint(0, 256, (active,), dtype=torch.uint8),
        torch.randn(active * size).bfloat16(),
        torch.randn(active * size),
    )
    for state in states:
        mine, closed = both(ops.close_up, state, dropped, mutated=0)
        front = slice(0, (active - k) * (len(state) // active))
        assert torch.equal(mine[front], closed[front])
        mine, reference = both(ops.spread, closed, stayed, mutated=0)
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(3, 2, 16, 70), (2, 3, 32, 130), (1, 2, 64, 40), (2, 1, 128, 33)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tile_products(dtype, shape, density):
    """Against the reference in float32; with one active tile, other rows and columns of tiles are
    empty.
    """
    rows, columns, side, tokens = shape
    mask, active = mask_of(rows * columns, density)
    where = [t.to(DEVICE) for t in tile_lists(mask, rows * side, columns * side, side, active)]
    x, dy = torch.randn(tokens, columns * side).to(dtype), torch.randn(tokens, rows * side).to(dtype)
    tiles, grad = (torch.randn(2, active, side, side) / side).to(dtype)
    made = []
    for kernels, device, kind in (("triton", DEVICE, dtype), ("reference", "cpu", torch.float32)):
        x_, dy_, tiles_, grad_ = (t.to(device, kind, copy=True) for t in (x, dy, tiles, grad))
        with ops.using(kernels):
            y, dx = (
                ops.tile_product(x_, tiles_, where, rows * side),
                ops.tile_input_gradient(dy_, tiles_, where, columns * side),
            )
            ops.tile_weight_gradient(dy_, x_, where, grad_)
        made.append([t.float().cpu() for t in (y, dx, grad_)])
    rounding = 1e-5 if dtype == torch.float32 else 2**-8
    for mine, reference in zip(*made, strict=True):
        torch.testing.assert_close(mine, reference, rtol=rounding, atol=rounding)


def test_tiles_of_other_sides_are_refused():
    mask = bitmask.pack(torch.ones(1, dtype=torch.bool))
    with ops.using("triton"), pytest.raises(ValueError, match="tiles are 24 x 24"):
        ops.tile_product(torch.ones(2, 24), torch.ones(1, 24, 24), tile_lists(mask, 24, 24, 24, 1), 24)
