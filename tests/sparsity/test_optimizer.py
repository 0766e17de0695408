"""Schedules, the age tables and weight decay, against their formulas and torch's own AdamW."""

import math

import pytest
import torch

from raysparse.sparsity.arena import FROM_THE_START, Arena
from raysparse.sparsity.optimizer import Group, Smet, age_tables, learning_rate
from raysparse.spec import OptimizerSpec, SparsitySpec
from tests.conftest import small_trial


def test_learning_rate_warms_up_linearly_and_falls_along_a_cosine():
    spec = OptimizerSpec(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.1)
    assert learning_rate(spec, 1, 100) == pytest.approx(0.1)
    assert learning_rate(spec, 10, 100) == pytest.approx(1.0)
    assert learning_rate(spec, 55, 100) == pytest.approx(0.55)
    assert learning_rate(spec, 100, 100) == pytest.approx(0.1)


def test_a_regrown_weight_takes_its_own_first_step():
    """In the step after an update at step 100 a weight regrown there has t = 1, whatever the global
    step.
    """
    step_size, correction = age_tables(OptimizerSpec(), SparsitySpec(update_every=100), rate=1.0, step=101)
    assert step_size[0].item() == pytest.approx(
        1.0 * (1 / 10) / (1 - 0.9), rel=1e-6
    )  # warm-up 1/10 of the corrected step
    assert correction[0].item() == pytest.approx((1 - 0.999) ** -0.5, rel=1e-6)
    # regrown one update earlier: t = 101, warm-up over
    assert step_size[1].item() == pytest.approx(1.0 / (1 - 0.9**101), rel=1e-6)
    # there from the start: the global step, no warm-up
    assert correction[FROM_THE_START].item() == pytest.approx((1 - 0.999**101) ** -0.5, rel=1e-6)


def test_plain_adam_takes_a_threefold_first_step_and_local_age_does_not():
    """The cold start that SMET removes (paper section 3.1): with m = v = 0 at a late step, |step| =
    lr (1-b1)/sqrt(1-b2).
    """
    sparsity = SparsitySpec(update_every=100, regrowth_warmup=0)
    step_size, correction = age_tables(OptimizerSpec(), sparsity, rate=1.0, step=100_001)

    def first_step(entry: int) -> float:
        m, v = 0.1 * 1.0, 0.001 * 1.0  # after one update with gradient 1
        return step_size[entry].item() * m / (math.sqrt(v) * correction[entry].item())

    assert first_step(FROM_THE_START) == pytest.approx(3.162, rel=1e-3)
    assert first_step(0) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(("scaling", "factor"), [("rsqrt", 2.0), ("inverse", 4.0), ("none", 1.0)])
def test_density_aware_learning_rate(scaling, factor):
    assert SparsitySpec(density=0.25, lr_scaling=scaling).learning_rate_factor == pytest.approx(factor)


# What torch.optim.AdamW, which multiplies a group's decay by that group's own rate, must be given
# for a sparse group at twice the dense rate 5e-3 of a run of 41 steps.
DECAY_OF_SPARSE = {"own_rate": lambda wd: wd, "dense_rate": lambda wd: wd / 2, "run": lambda wd: wd / (5e-3 * 41) / 2}


@pytest.mark.parametrize("unit", list(DECAY_OF_SPARSE))
def test_every_unit_of_weight_decay_equals_adamw_with_the_decay_it_stands_for(unit):
    """A sparse group at twice the rate, a dense one, and norms, which do not decay, over a whole
    run.
    """
    spec = small_trial("static", optimizer={"weight_decay": 3.0, "decay_per": unit, "clip": 0.0})
    assert (spec.sparsity.learning_rate_factor, spec.steps) == (2.0, 41)
    of_sparse = DECAY_OF_SPARSE[unit](3.0)
    factors, decays = (2.0, 1.0, 1.0), (of_sparse, of_sparse if unit == "own_rate" else 2 * of_sparse, 0.0)
    generator = torch.Generator().manual_seed(0)
    arenas = [Arena(7, dtype=torch.float32, moments=torch.float32, device="cpu") for _ in factors]
    plain = [torch.nn.Parameter(arena.values.normal_(generator=generator).clone()) for arena in arenas]
    adamw = torch.optim.AdamW([{"params": [p], "weight_decay": d} for p, d in zip(plain, decays, strict=True)])
    groups = [Group(a, factor=f, decays=n < 2) for n, (a, f) in enumerate(zip(arenas, factors, strict=True))]
    optimizer = Smet(spec, groups)
    for step in range(1, spec.steps + 1):
        for arena, p in zip(arenas, plain, strict=True):
            p.grad = torch.randn(7, generator=generator)
            arena.grad.copy_(p.grad)
        rate = optimizer.step(step, torch.tensor(1.0))
        for group, factor in zip(adamw.param_groups, factors, strict=True):
            group["lr"] = rate * factor
        adamw.step()
        for arena, p in zip(arenas, plain, strict=True):
            torch.testing.assert_close(arena.values, p.detach(), rtol=1e-5, atol=1e-6)


def test_in_units_of_the_run_the_decay_of_a_run_depends_neither_on_its_rate_nor_on_its_length():
    """At a constant rate weights without a gradient fall by (1 - wd / steps)^steps, about e^-wd."""
    for lr, steps in ((1e-3, 100), (1e-2, 10_000)):
        spec = OptimizerSpec(lr=lr, weight_decay=2.0, decay_per="run")
        assert (1.0 - spec.decay(lr, 2.0, steps)) ** steps == pytest.approx(math.exp(-2.0), rel=0.03)
