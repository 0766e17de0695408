"""What is dropped: from its definition, whatever the portions, as often as it should be, and never
where it should not.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse.data.order import Batches
from raysparse.kernels import philox
from raysparse.model import dropout as module
from raysparse.model.dropout import ATTENTION, DROPOUT, MLP, Dropout
from raysparse.placement import Placement
from raysparse.train import ranks
from raysparse.train.evaluate import evaluate
from raysparse.train.state import TrainState
from raysparse.train.step import accumulate_gradients
from tests.conftest import small_trial


@given(seed=st.integers(0, 2**31 - 1), step=st.integers(1, 10**6), row=st.integers(0, 10**6), p=st.floats(0.0, 0.99))
def test_every_number_is_dropped_by_its_own_sixteen_bits(seed, step, row, p):
    """Number i of the global batch has half i % 2 of word i // 2 of its stream."""
    dropped = Dropout(p, seed, step, row).dropped((2, 3, 4), layer=5, place=MLP)
    key = philox.stream(seed, step, 5, MLP, DROPOUT)
    for n, is_dropped in enumerate(dropped.flatten().tolist()):
        number = row * 12 + n
        word = int(philox.words(key, number // 2, number // 2 + 1))
        assert is_dropped == ((word >> 16 if number % 2 else word & 0xFFFF) < round(p * 2**16))


@given(cuts=st.lists(st.integers(0, 9), max_size=4), portion=st.integers(1, 40))
def test_however_the_rows_are_cut_the_same_is_dropped(cuts, portion):
    whole = Dropout(0.3, 1, 2, 0).dropped((9, 4, 6), layer=0, place=ATTENTION)
    bounds = [0, *sorted(cuts), 9]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PORTION", portion)
        parts = [
            Dropout(0.3, 1, 2, start).dropped((stop - start, 4, 6), layer=0, place=ATTENTION)
            for start, stop in itertools.pairwise(bounds)
        ]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_as_much_is_dropped_as_asked_for_and_the_mean_is_kept(p):
    dropout, x = Dropout(p, 0, 1, 0), torch.ones(64, 32, 16)
    out, n = dropout(x, layer=0, place=ATTENTION), x.numel()
    share = (out == 0).float().mean().item()
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)
    assert abs(out.mean().item() - 1) < 5 * math.sqrt(p / (1 - p) / n)


def test_steps_layers_places_and_seeds_drop_differently():
    shape = (4, 8, 8)
    seen = [
        Dropout(0.5, seed, step, 0).dropped(shape, layer, place)
        for seed in (0, 1) for step in (1, 2) for layer in (0, 1) for place in (ATTENTION, MLP)
    ]  # fmt: skip
    for n, one in enumerate(seen):
        for other in seen[:n]:
            assert 80 < (one != other).sum() < 176  # of 256, half on average, six standard deviations


@given(workers=st.integers(1, 5), micro_batch=st.integers(0, 4))
def test_gradients_are_those_of_one_rank_whatever_the_ranks_and_micro_batches(workers, micro_batch, store):
    """Ranks one after another: their gradients add up in the same memory, as a reduction does."""
    spec = small_trial(optimizer={"dropout": 0.3, "batch_sequences": 6})
    whole, parted = (TrainState(spec, Placement(micro_batch=m)) for m in (0, micro_batch))
    batches, total = Batches(store, spec), torch.zeros(())
    loss = accumulate_gradients(whole, batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "count", lambda: workers)
        for number in range(workers):
            patch.setattr(ranks, "rank", lambda number=number: number)
            total += accumulate_gradients(parted, batches)
    torch.testing.assert_close(total, loss, rtol=1e-5, atol=1e-5)
    for name, group in whole.groups.items():
        torch.testing.assert_close(parted.groups[name].arena.grad, group.arena.grad, rtol=1e-3, atol=1e-6)


def test_nothing_is_dropped_in_evaluation_or_at_probability_zero(store):
    dropping, plain = small_trial(optimizer={"dropout": 0.5}), small_trial()
    losses = [evaluate(TrainState(s, Placement()), Batches(store, s)).loss for s in (dropping, plain)]
    assert losses[0] == losses[1]
    assert Dropout.of(plain, step=1, first_row=0) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_drops_what_a_cpu_drops():
    dropout, shape = Dropout(0.3, 1, 2, 5), (3, 32, 16)
    assert torch.equal(dropout.dropped(shape, 0, MLP, "cuda").cpu(), dropout.dropped(shape, 0, MLP))
