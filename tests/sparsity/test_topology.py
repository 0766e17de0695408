"""Topology updates: counts are kept, survivors keep their state, the right blocks go and come, and
nothing is left to chance.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.sparsity.arena import FROM_THE_START
from raysparse.sparsity.optimizer import average_share
from raysparse.sparsity.storage import SparseWeights
from raysparse.sparsity.topology import Topology, update_ratio
from raysparse.spec import SparsitySpec
from tests.conftest import small_trial

BLOCKS = {"element": 1, "run": 4, "tile": 4}


def filled(spec) -> SparseWeights:
    """Weights whose moments tell which weight they belong to, so that a state in the wrong place is
    seen.
    """
    weights = SparseWeights(spec)
    weights.arena.exp_avg.copy_(weights.arena.values * 2)
    weights.arena.exp_avg_sq.copy_(weights.arena.values.square())
    weights.arena.average.copy_(weights.arena.values * 3)
    return weights


def dense_states(matrix) -> dict[str, torch.Tensor]:
    return {
        name: matrix.layout.expand(state, torch.empty(matrix.shape))
        for name, state in (
            ("values", matrix.values),
            ("exp_avg", matrix.exp_avg),
            ("exp_avg_sq", matrix.exp_avg_sq),
            ("average", matrix.average),
        )
    }


def active_mask(matrix) -> torch.Tensor:
    return matrix.layout.expand(torch.ones_like(matrix.values), torch.empty(matrix.shape)).bool()


def case(method="smet", kind="element", **sparsity):
    return small_trial(
        method,
        0.25,
        sparsity={"layout": kind, "block": BLOCKS[kind], "update_every": 4, "update_ratio": 0.3, **sparsity},
        optimizer={"average": 0.1},
        seed=5,
    )


@pytest.mark.parametrize("kind", list(BLOCKS))
@pytest.mark.parametrize("prune", ["magnitude", "soft_magnitude"])
def test_an_update_keeps_counts_order_and_the_survivors_states(kind, prune):
    spec = case(kind=kind, prune=prune)
    weights = filled(spec)
    before = {name: (active_mask(m), dense_states(m)) for name, m in weights.matrices.items()}
    change = Topology(spec).update(weights, step=4)
    assert change.regrown > 0
    for name, matrix in weights.matrices.items():
        assert len(matrix.layout.positions()) == matrix.layout.shape.active
        was, old = before[name]
        now, new = active_mask(matrix), dense_states(matrix)
        stayed, came = was & now, now & ~was
        assert came.sum() == (was & ~now).sum() > 0
        for state in new:
            assert torch.equal(new[state][stayed], old[state][stayed])
            assert not new[state][came].any()


def test_the_weakest_go_and_a_pruned_block_does_not_come_back_at_once():
    spec = case(update_ratio=0.5)
    weights = filled(spec)
    matrix = next(iter(weights.matrices.values()))
    was, magnitude = active_mask(matrix), matrix.weight().abs().clone()
    Topology(spec).update(weights, step=4)
    now = active_mask(matrix)
    assert magnitude[was & ~now].max() <= magnitude[was & now].min()


@pytest.mark.parametrize("method", ["smet", "smet_grad"])
@given(density=st.floats(0.25, 0.9), ratio=st.floats(0.05, 1.0), seed=st.integers(0, 20))
@settings(max_examples=20)
def test_balanced_tiles_are_as_many_in_every_row_before_and_after(method, density, ratio, seed):
    spec = case(method, "tile", balanced=True, update_ratio=ratio).replace(seed=seed)
    spec = spec.replace(sparsity=spec.sparsity.replace(density=density))
    weights = filled(spec)
    weights.want_dense_gradients(method == "smet_grad")
    for gradient in weights.dense_gradients():
        gradient.normal_(generator=torch.Generator().manual_seed(seed))
    for step in (4, 8):
        before = [active_tiles(m) for m in weights.matrices.values()]
        weights.arena.exp_avg.fill_(1.0)
        Topology(spec).update(weights, step)
        for matrix, was in zip(weights.matrices.values(), before, strict=True):
            now, per_row = active_tiles(matrix), max(1, round(density * matrix.shape[1] / 4))
            assert (now.sum(dim=1) == per_row).all()
            assert (was.sum(dim=1) == per_row).all()
            lost = was & (dense_states(matrix)["exp_avg"][::4, ::4] == 0)
            came_back = (lost & now).sum(dim=1)
            assert torch.equal(came_back, (lost.sum(dim=1) - (now.shape[1] - per_row)).clamp(min=0))


def active_tiles(matrix) -> torch.Tensor:
    return active_mask(matrix)[::4, ::4]


def test_gradient_regrowth_takes_the_largest_gradients():
    spec = case("rigl")
    weights = filled(spec)
    weights.want_dense_gradients(True)
    matrix = next(iter(weights.matrices.values()))
    matrix.dense_gradient.normal_(generator=torch.Generator().manual_seed(0))
    was = active_mask(matrix)
    Topology(spec).update(weights, step=4)
    now, size = active_mask(matrix), matrix.dense_gradient.abs()
    assert size[now & ~was].min() >= size[~now & ~was].max()


def test_regrowing_by_gradient_without_one_is_our_own_mistake_and_says_so():
    spec = case("smet_grad")
    with pytest.raises(RuntimeError, match="no dense gradient"):
        Topology(spec).update(SparseWeights(spec), step=4)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), density=st.floats(0.02, 0.999))
def test_an_update_is_a_function_of_weights_and_seed(seed, density):
    spec = case().replace(seed=seed)
    spec = spec.replace(sparsity=spec.sparsity.replace(density=density))
    first, second = filled(spec), filled(spec)
    Topology(spec).update(first, step=4)
    Topology(spec).update(second, step=4)
    for a, b in zip(first.matrices.values(), second.matrices.values(), strict=True):
        if not a.layout.is_full:
            assert torch.equal(a.layout.mask, b.layout.mask)
    assert torch.equal(first.arena.values, second.arena.values)


def test_ages_count_updates_since_regrowth():
    spec = case()
    weights = SparseWeights(spec)
    topology = Topology(spec)
    assert set(weights.arena.age.tolist()) == {FROM_THE_START}
    topology.update(weights, step=4)
    assert set(weights.arena.age.tolist()) == {0, FROM_THE_START}
    topology.update(weights, step=8)
    assert set(weights.arena.age.tolist()) <= {0, 1, FROM_THE_START}
    weights.arena.age.fill_(FROM_THE_START - 1)
    topology.update(weights, step=12)
    assert set(weights.arena.age.tolist()) == {0, FROM_THE_START}


def test_the_ratio_falls_along_a_cosine():
    sparsity = SparsitySpec(update_ratio=0.2, update_ratio_final=0.005)
    assert update_ratio(sparsity, 0, 1000) == pytest.approx(0.2)
    assert update_ratio(sparsity, 500, 1000) == pytest.approx(0.1025)
    assert update_ratio(sparsity, 1000, 1000) == pytest.approx(0.005)


@pytest.mark.parametrize("method", ["dense", "static"])
def test_methods_without_updates_are_never_due(method):
    assert not any(Topology(small_trial(method)).due(step) for step in range(1, 40))


def test_soft_pruning_prefers_weak_blocks_without_being_bound_to_them():
    spec = case(prune="soft_magnitude", update_ratio=0.5)
    weights = filled(spec)
    matrix = next(iter(weights.matrices.values()))
    was, magnitude = active_mask(matrix), matrix.weight().abs().clone()
    Topology(spec).update(weights, step=4)
    now = active_mask(matrix)
    gone, stayed = magnitude[was & ~now], magnitude[was & now]
    assert gone.mean() < stayed.mean()
    assert gone.max() > stayed.min()
    assert math.isfinite(stayed.mean())


@pytest.mark.parametrize("method", ["static", "rigl", "smet"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_average_is_that_of_dense_matrices_in_which_inactive_weights_are_zero(method, precision):
    """The weighted mean of all values since a weight was last pruned, from its definition: every
    step's dense matrices are kept, and weighted by b^(steps ago).
    """
    spec = case(method).replace(precision=precision)
    weights, topology, generator = SparseWeights(spec), Topology(spec), torch.Generator().manual_seed(1)
    matrix = list(weights.matrices.values())[3]
    seen: list[torch.Tensor] = []
    for step in range(1, 21):
        weights.arena.values.copy_(torch.randn(weights.arena.values.shape, generator=generator))
        weights.arena.follow(average_share(spec.optimizer, step, spec.steps))
        seen.append(matrix.weight().float().clone())
        if topology.due(step):
            was = active_mask(matrix)
            weights.want_dense_gradients(topology.needs_gradients(step))
            for gradient in weights.dense_gradients():
                gradient.normal_(generator=generator)
            topology.update(weights, step)
            gone = was & ~active_mask(matrix)
            assert gone.any()
            for dense in seen:
                dense[gone] = 0.0  # begins anew if it ever comes back
        age = torch.arange(len(seen) - 1, -1, -1, dtype=torch.float64)
        share = (-age / (spec.optimizer.average * spec.steps)).exp()
        expected = torch.einsum("s,srk->rk", share / share.sum(), torch.stack(seen).double()).float()
        found = matrix.layout.expand(matrix.average, torch.empty(matrix.shape))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
