"""Schedules and the age tables, against their formulas."""

import math

import pytest

from raysparse.sparsity.optimizer import age_tables, learning_rate
from raysparse.sparsity.storage import FROM_THE_START
from raysparse.spec import OptimizerSpec, SparsitySpec


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
