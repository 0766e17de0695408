"""Masks and choosing blocks: against sorting, and against moving weights through dense memory."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raysparse.kernels import bitmask, philox
from raysparse.kernels.torch import bits, selection, storage

flags = st.lists(st.booleans(), min_size=1, max_size=3000).map(torch.tensor)


@pytest.fixture(autouse=True, params=[bits.PORTION, bitmask.GROUP], ids=["one portion", "several"])
def portion(request, monkeypatch):
    """The answer must not depend on how the work is cut up. What is never cut is in
    `test_choosing`.
    """
    monkeypatch.setattr(bits, "PORTION", request.param)
    monkeypatch.setattr(selection, "WORDS", request.param)


def random_mask(blocks: int, density: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    active = torch.rand(blocks, generator=torch.Generator().manual_seed(seed)) < density
    return active, bitmask.pack(active)


@given(flags)
def test_masks_hold_what_was_packed(active):
    mask = bitmask.pack(active)
    assert mask.dtype == torch.int32
    assert mask.numel() == -(-active.numel() // 32)
    assert torch.equal(bitmask.unpack(mask, active.numel()), active)
    assert torch.equal(bitmask.positions(mask, active.numel(), int(active.sum())), active.nonzero().view(-1))


@given(flags)
def test_bases_count_the_active_blocks_before_each_group(active):
    expected = [int(active[: group * 1024].sum()) for group in range(-(-active.numel() // 1024))]
    assert bits.bases(bitmask.pack(active)).tolist() == expected


@given(keys=st.lists(st.integers(0, 5) | st.integers(2**32 - 4, 2**32 - 1), min_size=1, max_size=2500), data=st.data())
def test_smallest_takes_the_first_of_equal_keys(keys, data):
    k = data.draw(st.integers(0, len(keys)))
    expected = set(sorted(range(len(keys)), key=lambda i: (keys[i], i))[:k])
    tensor = torch.tensor(keys)
    chosen = torch.cat(list(selection.smallest(lambda start, stop: tensor[start:stop], len(keys), k)))
    assert set(chosen.nonzero().view(-1).tolist()) == expected


@pytest.mark.parametrize("size", [1, 4])
@given(blocks=st.integers(1, 3000), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_the_weakest_blocks_are_those_of_a_sort(size, blocks, share, seed):
    values = torch.randn(blocks * size, generator=torch.Generator().manual_seed(seed))
    k = round(share * blocks)
    expected = values.abs().view(-1, size).sum(dim=1).argsort(stable=True)[:k]
    dropped = selection.weakest(values, size, k)
    assert sorted(expected.tolist()) == dropped.nonzero().view(-1).tolist()


@given(blocks=st.integers(1, 3000), density=st.floats(0, 1), share=st.floats(0, 1), key=st.integers(0, 2**60))
def test_regrowing_at_random_takes_the_smallest_words_of_inactive_blocks(blocks, density, share, key):
    active, mask = random_mask(blocks, density)
    inactive = (~active).nonzero().view(-1)
    k = round(share * len(inactive))
    words = philox.words(key, 0, blocks)[inactive]
    expected = inactive[words.argsort(stable=True)[:k]].sort().values
    assert torch.equal(
        bitmask.unpack(selection.regrow_at_random(mask, blocks, k, key), blocks).nonzero().view(-1), expected
    )


@settings(max_examples=15)
@given(share=st.floats(0.001, 0.5), key=st.integers(0, 2**60))
def test_a_stream_may_be_used_twice(share, key):
    """Its small words belong to active blocks by then, so the k-th smallest is far from where it is
    looked for first.
    """
    blocks, k = 10_000, round(share * 5_000)
    mask = torch.zeros(bitmask.words(blocks), dtype=torch.int32)
    mask |= selection.regrow_at_random(mask, blocks, k, key)
    inactive = (~bitmask.unpack(mask, blocks)).nonzero().view(-1)
    words = philox.words(key, 0, blocks)[inactive]
    expected = inactive[words.argsort(stable=True)[:k]].sort().values
    assert torch.equal(
        bitmask.unpack(selection.regrow_at_random(mask, blocks, k, key), blocks).nonzero().view(-1), expected
    )


@given(blocks=st.integers(1, 3000), density=st.floats(0, 1), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_regrowing_the_largest_is_a_sort_too(blocks, density, share, seed):
    active, mask = random_mask(blocks, density, seed)
    scores = torch.randint(0, 50, (blocks,), generator=torch.Generator().manual_seed(seed)).float()  # with ties
    inactive = (~active).nonzero().view(-1)
    k = round(share * len(inactive))
    expected = inactive[(-scores[inactive]).argsort(stable=True)[:k]].sort().values
    assert torch.equal(bitmask.unpack(selection.regrow_largest(mask, scores, k), blocks).nonzero().view(-1), expected)


@pytest.mark.parametrize("size", [1, 3])
@given(blocks=st.integers(2, 3000), density=st.floats(0, 1), share=st.floats(0, 1), seed=st.integers(0, 100))
def test_moving_in_place_equals_moving_through_dense_memory(size, blocks, density, share, seed):
    active, mask = random_mask(blocks, density, seed)
    count = int(active.sum())
    assume(count > 0)  # a matrix keeps at least one block
    k = min(round(share * count), blocks - count)
    state = torch.arange(1.0, count * size + 1)
    dropped = selection.weakest(torch.rand(count, generator=torch.Generator().manual_seed(seed)), 1, k)
    regrown = selection.regrow_at_random(mask, blocks, k, key=seed)
    dense = torch.zeros(blocks, size)
    dense[active] = state.view(-1, size)
    dense[active.nonzero().view(-1)[dropped]] = 0.0
    storage.exchange(mask, bits.bases(mask), blocks, dropped, regrown, state)
    assert torch.equal(state.view(-1, size), dense[bitmask.unpack(mask, blocks)])
