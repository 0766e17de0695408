"""The dispatcher: operators that torch accepts, gradients that are right, and no triton where it is
not needed.
"""

import subprocess
import sys

import pytest
import torch
from torch.library import opcheck

from raysparse.kernels import bitmask, ops, reference, selection
from raysparse.kernels.tile_lists import tile_lists

SHAPE = (96, 64)  # of a matrix, 3 x 2 tiles of 32


def mask_of(blocks: int, density: float = 0.4) -> tuple[torch.Tensor, int]:
    active = torch.rand(blocks, generator=torch.Generator().manual_seed(1)) < density
    active[0] = True
    return bitmask.pack(active), int(active.sum())


def arguments() -> dict[str, tuple[tuple, dict]]:
    """Arguments of every operator, by its name."""
    mask, active = mask_of(300)
    bases, weights = bitmask.bases(mask), torch.rand(active)
    dropped = selection.weakest(weights, 1, 20)
    regrown, survivors = selection.regrow_at_random(mask, 300, 20, 3), mask.clone()
    selection.remove(survivors, 300, dropped)
    stayed = selection.stayed(regrown, survivors | regrown, 300, active)
    tile_mask, tiles = mask_of(6)
    where = list(tile_lists(tile_mask, *SHAPE, 32, tiles))
    x, dy = torch.randn(10, SHAPE[1]), torch.randn(10, SHAPE[0])
    adam = {"gradient_factor": torch.tensor(1.0), "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "decay": 0.1, "noise": 5}
    return {
        "bases": ((mask,), {}),
        "remove": ((mask.clone(), 300, dropped), {}),
        "stayed": ((regrown, survivors | regrown, 300, active), {}),
        "weakest": ((weights, 1, 20), {"noise": 4, "exponent": 3.0}),
        "regrow_at_random": ((mask, 300, 20, 3), {}),
        "regrow_largest": ((mask, torch.rand(300), 20), {}),
        "regrow_in_rows": ((mask, survivors, 300, 3, 60, 3, torch.rand(300)), {}),
        "close_up": ((weights, dropped), {}),
        "spread": ((weights, stayed), {}),
        "adam_step": ((weights, torch.rand(active), torch.zeros(active), torch.zeros(active),
                       torch.zeros(active, dtype=torch.uint8), torch.rand(256), torch.rand(256)), adam),
        "expand": ((weights, mask, bases, torch.empty(300, 1)), {}),
        "compact_accumulate": ((torch.randn(300, 1), mask, bases, weights), {}),
        "expanded": ((weights.clone().requires_grad_(), mask, bases, [300, 1]), {}),
        "tile_product": ((x.clone().requires_grad_(), torch.randn(tiles, 32, 32, requires_grad=True), where,
                         SHAPE[0]), {}),
        "tile_input_gradient": ((dy, torch.randn(tiles, 32, 32), where, SHAPE[1]), {}),
        "tile_weight_gradient": ((dy, x, where, torch.zeros(tiles, 32, 32)), {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", arguments())
def test_torch_accepts_the_operator(name):
    """Its schema tells the truth, its fake twin has the right shapes, and it can be traced with its
    gradients.
    """
    positional, named = arguments()[name]
    opcheck(getattr(torch.ops.raysparse, name).default, positional, named)


@pytest.mark.parametrize("tile", [0, 32])
def test_expand_and_compact_are_transposes_in_every_layout(tile):
    shape = SHAPE if tile else (SHAPE[0] * SHAPE[1], 1)
    size = tile * tile or 1
    mask, active = mask_of(SHAPE[0] * SHAPE[1] // size)
    bases = ops.bases(mask)
    values, dense = torch.randn(active * size), torch.randn(shape)
    out, grad = torch.full(shape, torch.nan), torch.zeros(active * size)
    ops.expand(values, mask, bases, out, tile)
    ops.compact_accumulate(dense, mask, bases, grad, tile)
    assert out.count_nonzero() == active * size
    torch.testing.assert_close((out * dense).sum(), (values * grad).sum())
    values.requires_grad_()
    (ops.expanded(values, mask, bases, shape, tile) * dense).sum().backward()
    assert torch.equal(values.grad, grad)


def test_the_tile_product_and_its_gradients_are_those_of_the_dense_product():
    mask, active = mask_of(6)
    x, tiles = torch.randn(10, SHAPE[1], requires_grad=True), torch.randn(active, 32, 32, requires_grad=True)
    dy = torch.randn(10, SHAPE[0])
    y = ops.tile_product(x, tiles, tile_lists(mask, *SHAPE, 32, active), SHAPE[0])
    y.backward(dy)
    mine = [y, x.grad.clone(), tiles.grad.clone()]
    x.grad = tiles.grad = None
    dense = ops.expanded(tiles.view(-1), mask, ops.bases(mask), SHAPE, 32)
    y = x @ dense.t()
    y.backward(dy)
    for got, want in zip(mine, [y, x.grad, tiles.grad], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_tile_lists_name_every_tile_once_by_row_and_by_column(density):
    mask, active = mask_of(35, density)
    where = tile_lists(mask, 5 * 16, 7 * 16, 16, active)
    expected = [divmod(int(n), 7) for n in bitmask.positions(mask, 35, active)]
    assert list(zip(where.rows.tolist(), where.columns.tolist(), strict=True)) == expected
    for row in range(5):
        assert set(where.rows[where.row_starts[row] : where.row_starts[row + 1]].tolist()) <= {row}
    for column in range(7):
        visits = slice(where.column_starts[column], where.column_starts[column + 1])
        assert set(where.columns[where.by_column[visits].long()].tolist()) <= {column}
    assert sorted(where.by_column.tolist()) == list(range(active))
    assert torch.equal(where.rows_by_column, where.rows[where.by_column.long()])


def test_a_compiled_program_sees_the_operators(monkeypatch):
    """aot_eager: traced and functionalised as by any backend, with nothing generated."""
    mask, active = mask_of(300)
    bases, values = bitmask.bases(mask), torch.randn(active)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def twice(values):
        out = torch.empty(300, 1)
        ops.expand(values, mask, bases, out)
        return 2 * out, ops.regrow_at_random(mask, 300, 20, 2**64 - 3)

    out, grown = twice(values)
    assert torch.equal(out, 2 * reference.expand(values, mask, torch.empty(300, 1)))
    assert torch.equal(grown, selection.regrow_at_random(mask, 300, 20, 2**64 - 3))


def test_nothing_here_needs_triton_on_a_cpu():
    program = (
        "import sys; sys.modules['triton'] = None; import torch; from raysparse.kernels import ops, bitmask;"
        "mask = bitmask.pack(torch.ones(40, dtype=torch.bool)); assert ops.bases(mask).tolist() == [0]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
