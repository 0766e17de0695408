"""Choosing among few blocks, which are always one portion: order, chances, and rows."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse.kernels import bitmask, philox
from raysparse.kernels.torch import selection


@given(st.lists(st.floats(0, 2.0**100, width=32), min_size=2, max_size=30))
def test_order_bits_sort_as_scores_do(scores):
    tensor = torch.tensor(scores).abs()  # scores are sums of magnitudes: there is no -0.0
    bits = selection.order_bits(tensor)
    assert torch.equal(tensor[bits.argsort(stable=True)], tensor.sort().values)
    assert bits.min() >= 0


def test_soft_pruning_keeps_a_block_in_proportion_to_its_score():
    """Of two blocks, one goes: block i stays with probability s_i^T / (s_0^T + s_1^T)
    (Gumbel-max).
    """
    values = torch.tensor([1.0, 2.0])
    kept = [not selection.weakest(values, 1, 1, noise=philox.stream(seed), exponent=3.0)[1] for seed in range(2000)]
    assert sum(kept) / 2000 == pytest.approx(8 / 9, abs=3 * math.sqrt(8 / 81 / 2000))


def test_regrowing_at_random_is_uniform():
    mask = bitmask.pack(torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.5)
    times = sum(
        bitmask.unpack(selection.regrow_at_random(mask, 64, 8, philox.stream(seed)), 64).long() for seed in range(2000)
    )
    expected = 2000 * 8 / (64 - bitmask.unpack(mask, 64).sum())
    drawn = times[~bitmask.unpack(mask, 64)]
    assert (drawn - expected).abs().max() < 5 * math.sqrt(expected)
    assert not times[bitmask.unpack(mask, 64)].any()


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 60)),
    seed=st.integers(0, 100),
    scored=st.booleans(),
    data=st.data(),
)
def test_regrowing_in_rows_is_a_sort_of_every_row(shape, seed, scored, data):
    rows, columns = shape
    per_row = data.draw(st.integers(1, columns))
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(shape, generator=generator).argsort(dim=1) < per_row
    survivors = active & (torch.rand(shape, generator=generator) < 0.6)
    scores = torch.randint(0, 9, (rows * columns,), generator=generator).float() if scored else None
    order = -scores if scored else philox.words(seed, 0, rows * columns)
    packed = [bitmask.pack(flags.flatten()) for flags in (active, survivors)]
    chosen = bitmask.unpack(
        selection.regrow_in_rows(*packed, rows * columns, rows, per_row, seed, scores), rows * columns
    )
    for row in range(rows):
        places = [
            (bool(active[row, c]), order.view(shape)[row, c].item(), c) for c in range(columns) if not survivors[row, c]
        ]
        expected = sorted(c for _, _, c in sorted(places)[: per_row - int(survivors[row].sum())])
        assert chosen.view(shape)[row].nonzero().view(-1).tolist() == expected
