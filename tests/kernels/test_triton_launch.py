"""Every Triton kernel as a launch on a Hopper would compile it, with no GPU: what the interpreter
cannot see.

Operations are called as training calls them, and Triton specializes their arguments (`stub_gpu`):
an argument that is 1 becomes a constant, which once made `columns // tile` a division by zero in
every kernel of single weights. The assembler's report then tells of registers spilled to memory,
and the code whether products use the tensor cores of that generation (HGMMA) and its copy engine
(UTMALDG).
"""

import inspect
import os
import re

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process, and so cannot be compiled", allow_module_level=True)

import torch

from raysparse.kernels import bitmask, ops, philox
from raysparse.kernels.tile_lists import tile_lists
from raysparse.kernels.torch.bits import bases
from raysparse.kernels.triton import adam, bits, entropy, pointwise, selection, storage, tiles
from tests import stub_gpu

MODULES = [adam, bits, entropy, pointwise, selection, storage, tiles]
BF16, FP32 = torch.bfloat16, torch.float32
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.01, "noise": philox.stream(1)}
# (blocks, size) of single weights and runs, (rows, columns, tile) of tiles.
SHAPES = [(4096, 1), (1100, 4), (512, 32), (90, 130), (48, 80, 16), (128, 192, 64), (256, 128, 128)]
# One block, which makes `blocks` a constant, and a number of blocks that 16 does not divide.
ODD_SHAPES = [(1, 1), (2500, 1), (1, 4), (3, 1024), (16, 16, 16), (16, 48, 16)]
WEIGHTS_A_THREAD = 1024 // 128
STORED_AND_DENSE = [(BF16, BF16), (FP32, BF16), (FP32, FP32)]


@pytest.fixture
def launches():
    with stub_gpu.pretended() as launches:
        yield launches


def names(launches) -> set[str]:
    return {launch.kernel for launch in launches}


def assert_nothing_spills(launches, tmp_path):
    for binary in {launch.binary for launch in launches}:
        assert stub_gpu.spilled_bytes(binary, tmp_path) == 0


def half_of(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """(mask, bases, active weights) of every second block, the first among them."""
    blocks = shape[0] * shape[1] // shape[2] ** 2 if len(shape) == 3 else shape[0]
    active = torch.arange(blocks) % 2 == 0
    mask = bitmask.pack(active)
    return mask, bases(mask), int(active.sum()) * (shape[2] ** 2 if len(shape) == 3 else shape[1])


def store_and_read(shape: tuple[int, ...], stored: torch.dtype, dense_dtype: torch.dtype, *, first: int = 0) -> None:
    """Expand a matrix and accumulate its gradient; compact memory starts at entry `first` of an
    arena.
    """
    mask, bases, count = half_of(shape)
    compact = torch.zeros(first + count, dtype=stored)[first:]
    dense = torch.zeros(shape[:2], dtype=dense_dtype)
    tile = shape[2] if len(shape) == 3 else 0
    ops.expand(compact, mask, bases, dense, tile)
    ops.compact_accumulate(dense, mask, bases, compact, tile)


@pytest.mark.parametrize("dtypes", STORED_AND_DENSE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_storage_of_every_layout_keeps_everything_in_registers(shape, dtypes, launches, tmp_path):
    store_and_read(shape, *dtypes)
    assert names(launches) == {"_expand", "_compact"}
    assert_nothing_spills(launches, tmp_path)


def test_single_weights_cost_few_instructions(launches, tmp_path):
    """Bandwidth leaves an H100 time for some 25 a weight; with scans for ranks it was 54 and 64.
    The code has no loops, so what a thread runs is what there is.
    """
    store_and_read(SHAPES[0], BF16, BF16)
    found = {one.kernel: stub_gpu.instructions(one.binary, tmp_path) / WEIGHTS_A_THREAD for one in launches}
    assert found["_expand"] <= 25
    assert found["_compact"] <= 30


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_storage_of_sizes_that_are_1_or_odd(shape, launches):
    store_and_read(shape, FP32, BF16)
    assert names(launches) == {"_expand", "_compact"}


def test_storage_at_addresses_that_16_does_not_divide(launches):
    """A matrix's weights begin anywhere in the arena."""
    for shape in (SHAPES[0], SHAPES[4]):
        store_and_read(shape, BF16, BF16, first=1)
    assert len({launch.binary for launch in launches}) == 4


def adam_step(total: int, size: int | None, values: torch.dtype, moments: torch.dtype, device: str = "cpu") -> None:
    w, g = (torch.empty(total, dtype=values, device=device) for _ in range(2))
    m, v = (torch.empty(total, dtype=moments, device=device) for _ in range(2))
    age = None if size is None else torch.empty(total // size, dtype=torch.uint8, device=device)
    tables = torch.ones(2, 256, device=device)
    ops.adam_step(w, g, m, v, age, tables[0], tables[1], gradient_factor=tables[0, 0], **ADAM)


@pytest.mark.parametrize("size", [None, 1, 3, 256], ids=lambda size: f"ages of {size}")
@pytest.mark.parametrize("dtypes", [(BF16, BF16), (BF16, FP32), (FP32, FP32)], ids=str)
def test_adam_step_keeps_everything_in_registers(dtypes, size, launches, tmp_path):
    adam_step(768 * 3, size, *dtypes)
    (launch,) = launches
    assert_nothing_spills(launches, tmp_path)
    code = stub_gpu.code(launch.binary, tmp_path)
    draws_words = any(text in code for text in ("0xd2511f53", "-0x2daee0ad"))  # a multiplier of Philox
    assert draws_words == (BF16 in dtypes), "float32 storage pays for no random words"


@pytest.mark.parametrize("total", [1, 2305, 2**33])
def test_adam_step_of_one_weight_of_odd_numbers_and_of_more_than_32_bits_count(total, launches):
    adam_step(total, None, BF16, FP32, device="meta" if total > 2**31 else "cpu")  # meta: a shape without memory
    assert names(launches) == {"_adam_step"}


@pytest.mark.parametrize("blocks", [1, 2500, 4096])
@pytest.mark.parametrize("rule", ["weakest", "soft", "random", "largest"])
def test_choosing_blocks(rule, blocks, launches):
    mask, _, _ = half_of((blocks, 1))
    if rule in ("weakest", "soft"):
        ops.weakest(torch.zeros(blocks, dtype=BF16), 1, 1, noise=7 if rule == "soft" else None, exponent=3.0)
    elif rule == "random":
        ops.regrow_at_random(mask, blocks, 1, philox.stream(2))
    else:
        ops.regrow_largest(mask, torch.zeros(blocks), 1)
    assert names(launches) == {"_count_digits", "_count_ties", "_choose"}


@pytest.mark.parametrize("scores", [None, torch.zeros(2500)], ids=["at random", "by score"])
def test_choosing_blocks_in_rows(scores, launches):
    mask, _, _ = half_of((2500, 1))
    ops.regrow_in_rows(mask, torch.zeros_like(mask), 2500, 50, 25, philox.stream(2), scores)
    assert names(launches) == {"_row_keys", "_pack"}


@pytest.mark.parametrize("size", [3, 16, 64, 300, 128**2])
@pytest.mark.parametrize("blocks", [1, 5, 16])
def test_scores_of_blocks(blocks, size, launches):
    selection.block_scores(torch.zeros(blocks * size, dtype=BF16), size)
    assert names(launches) == {"_sum_pairs"}


@pytest.mark.parametrize("shape", [(1, 1), (2500, 1), (4096, 1), (1100, 4), (64, 16**2), (1, 128**2)], ids=str)
def test_replacing_blocks(shape, launches):
    """Everything of a topology update but the choice, for states of one byte a block, bfloat16 and
    float32.
    """
    (blocks, size), (mask, bases, count) = shape, half_of(shape)
    active = count // size
    dropped = torch.zeros(active, dtype=torch.bool)
    states = torch.zeros(active, dtype=torch.uint8), torch.zeros(count, dtype=BF16), torch.zeros(count)
    ops.survivors(mask, bases, blocks, dropped)
    ops.exchange(mask, bases, blocks, dropped, torch.zeros_like(mask), *states)
    assert names(launches) == {"_exchange", "_count_groups", "_move"}


def between_products(heads: int, e: int, width: int, tokens: int, dtype: torch.dtype) -> None:
    """Rotary embedding and SwiGLU, forward and backward, of two sequences."""
    table = torch.zeros(tokens, e, dtype=dtype)
    ops.rotary_gradient(
        *ops.rotary(torch.zeros(2, tokens, 3 * heads * e, dtype=dtype), table, table, heads), table, table
    )
    made, gradients = torch.zeros(2, 2, tokens, 2 * width, dtype=dtype)
    ops.swiglu_gradient(ops.swiglu(*made.chunk(2, -1)), *made.chunk(2, -1), *gradients.chunk(2, -1))


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 2, 1, 1), (6, 64, 1000, 33), (32, 64, 5504, 256), (32, 128, 11008, 256)], ids=str
)
def test_what_lies_between_products(shape, dtype, launches, tmp_path):
    between_products(*shape, dtype)
    assert [one.kernel for one in launches] == ["_rotary", "_rotary", "_swiglu", "_swiglu_gradient"]
    assert_nothing_spills(launches, tmp_path)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("columns", [1, 97, 4096, 32000])
def test_cross_entropy(columns, dtype, launches, tmp_path):
    ops.cross_entropy(torch.zeros(3, columns, dtype=dtype), torch.zeros(3, dtype=torch.long))
    assert names(launches) == {"_cross_entropy"}
    assert_nothing_spills(launches, tmp_path)


def tile_products(side: int, tokens: int, dtype: torch.dtype, stored: torch.dtype | None = None) -> None:
    """The three products with 6 of 3 x 4 tiles, whose gradients are stored as the tiles or
    otherwise.
    """
    mask = bitmask.pack(torch.arange(12) % 2 == 0)
    where = tile_lists(mask, 3 * side, 4 * side, side, 6)
    x, dy = torch.zeros(tokens, 4 * side, dtype=dtype), torch.zeros(tokens, 3 * side, dtype=dtype)
    tiles = torch.zeros(6, side, side, dtype=dtype)
    ops.tile_product(x, tiles, where, 3 * side)
    ops.tile_input_gradient(dy, tiles, where, 4 * side)
    ops.tile_weight_gradient(dy, x, where, tiles.to(stored or dtype))


@pytest.mark.parametrize(("dtype", "stored"), [(FP32, FP32), (BF16, BF16), (BF16, FP32)], ids=str)
@pytest.mark.parametrize("side", [16, 32, 64, 128])
def test_tile_products(side, dtype, stored, launches, tmp_path):
    """No spills anywhere; operands through the copy engine; for bfloat16, tensor cores of the
    generation in both products of tiles of 64 and 128, and in the weight gradient.
    """
    tile_products(side, 256, dtype, stored)
    assert [launch.kernel for launch in launches] == ["_product", "_product", "_weight_gradient"]
    assert_nothing_spills(launches, tmp_path)
    for launch in launches:
        code = stub_gpu.code(launch.binary, tmp_path)
        assert "UTMALDG" in code
        if dtype == BF16 and side >= 64:
            assert "HGMMA" in code


@pytest.mark.parametrize("tokens", [1, 33])
def test_tile_products_of_one_token_and_of_odd_numbers(tokens, launches):
    tile_products(32, tokens, BF16)
    assert names(launches) == {"_product", "_weight_gradient"}


def test_no_kernel_is_left_out(launches):
    """Whoever adds a kernel adds it here: the modules launch no other than these tests do."""
    sources = "".join(inspect.getsource(module) for module in MODULES)
    store_and_read(SHAPES[0], FP32, BF16)
    adam_step(768 * 3, None, FP32, FP32)
    mask, bases, _ = half_of((2500, 1))
    ops.regrow_at_random(mask, 2500, 1, 1)
    ops.regrow_in_rows(mask, mask, 2500, 50, 25, 1)
    selection.block_scores(torch.zeros(48), 3)
    ops.exchange(mask, bases, 2500, torch.zeros(1250, dtype=torch.bool), torch.zeros_like(mask), torch.zeros(1250))
    tile_products(32, 33, BF16)
    between_products(6, 64, 1000, 33, BF16)
    ops.cross_entropy(torch.zeros(3, 97), torch.zeros(3, dtype=torch.long))
    assert names(launches) == set(re.findall(r"^\s+(_\w+)\[.*\]\(", sources, flags=re.MULTILINE))
