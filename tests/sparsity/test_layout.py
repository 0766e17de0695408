"""Layouts: exact counts, and compact <-> dense both ways for every kind of block."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse.counts import Blocks
from raysparse.sparsity.layout import Layout

KINDS = ["element", "run", "tile"]


def make(kind: str, active: int | None = None, seed: int = 0) -> Layout:
    """A 12 x 20 matrix in single weights, runs of 5 or tiles of 4 x 4."""
    block = {"element": 1, "run": 5, "tile": 4}[kind]
    size = {"element": 1, "run": 5, "tile": 16}[kind]
    total = 12 * 20 // size
    return Layout.random(
        kind, block, Blocks(12, 20, size, total, total if active is None else active), seed=seed, matrix=3
    )


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 2**31 - 1))
def test_a_random_layout_has_exactly_its_blocks_in_order(kind, share, seed):
    active = max(1, round(share * make(kind).shape.total))
    layout = make(kind, active, seed)
    assert layout.is_full == (active == layout.shape.total)
    positions = layout.positions().tolist()
    assert positions == sorted(set(positions))
    assert len(positions) == active
    assert positions[-1] < layout.shape.total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_expanding_puts_every_block_where_its_number_says(kind, dtype, share, seed):
    layout = make(kind, max(1, round(share * make(kind).shape.total)), seed)
    values = torch.randn(layout.shape.active_weights, generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected = torch.zeros(12, 20, dtype=dtype)
    for block, number in zip(values.view(-1, layout.shape.size), layout.positions().tolist(), strict=True):
        if kind == "tile" and not layout.is_full:
            row, column = 4 * (number // 5), 4 * (number % 5)
            expected[row : row + 4, column : column + 4] = block.view(4, 4)
        else:
            expected.view(-1)[number * layout.shape.size : (number + 1) * layout.shape.size] = block
    assert torch.equal(layout.expand(values, torch.full((12, 20), torch.nan, dtype=dtype)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_block_sums_add_up_every_block(kind):
    layout = make(kind, 3)
    dense = layout.expand(torch.ones(layout.shape.active_weights), torch.empty(12, 20))
    sums = layout.block_sums(dense)
    assert sums.nonzero().view(-1).tolist() == layout.positions().tolist()
    assert sums.sum() == layout.shape.active_weights


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_compacting_a_gradient_is_the_adjoint_of_expanding(kind, share, seed):
    """<expand(v), G> = <v, compact(G)> for all v and G."""
    layout = make(kind, max(1, round(share * make(kind).shape.total)), seed)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(layout.shape.active_weights, generator=generator, dtype=torch.float64)
    gradient = torch.randn(12, 20, generator=generator, dtype=torch.float64)
    compact = torch.zeros_like(values)
    layout.compact_accumulate(gradient, compact)
    dense = layout.expand(values, torch.empty(12, 20, dtype=torch.float64))
    torch.testing.assert_close((dense * gradient).sum(), (values * compact).sum())


def test_a_tile_is_a_square_of_the_matrix():
    layout = make("tile", active=1)
    dense = layout.expand(torch.ones(16), torch.empty(12, 20))
    rows, columns = dense.nonzero(as_tuple=True)
    assert rows.max() - rows.min() == 3
    assert columns.max() - columns.min() == 3


def test_matrices_and_seeds_have_different_masks():
    assert not torch.equal(make("element", 60, seed=0).mask, make("element", 60, seed=1).mask)
