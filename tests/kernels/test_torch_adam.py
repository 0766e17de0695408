"""Adam in plain torch: the paper's formula at every age, and stochastic rounding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.kernels import ops, philox
from raysparse.kernels.torch import adam


def test_stochastic_rounding_keeps_the_mean_that_nearest_rounding_loses():
    """bf16 has 8 bits: 1 + 1/1024 rounds to 1 always, so a moving average in plain bf16 never
    decays.
    """
    x = torch.full((200_000,), 1.0 + 2.0**-10)
    rounded = adam.round_stochastically(x, philox.words(5, 0, len(x))).float()
    assert set(rounded.unique().tolist()) == {1.0, 1.0078125}
    assert abs(rounded.mean().item() - x[0].item()) < 5e-5
    assert x.bfloat16().float().mean() == 1.0


def test_stochastic_rounding_leaves_what_bf16_can_hold():
    x = torch.tensor([0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, 2.0**-130])
    assert torch.equal(adam.round_stochastically(x, philox.words(1, 0, len(x))), x.bfloat16())
    assert adam.round_stochastically(torch.tensor([math.nan]), torch.tensor([2**32 - 1])).isnan().all()


def plain_smet_adam(w, g, m, v, t, warmup, *, lr, beta1, beta2, eps):
    """The formulas of the paper for one weight, in Python floats."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    step = lr * warmup * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + eps)
    return w - step, m, v


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("portion", [adam.STEP_PORTION, 8, 0])
def test_adam_step_follows_the_formula_at_every_age(monkeypatch, size, portion):
    """In one portion, in many, and (0) in C."""
    monkeypatch.setattr(adam, "STEP_PORTION", portion)
    blocks, settings_ = 23, {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    generator = torch.Generator().manual_seed(0)
    w, g, m = (torch.randn(blocks * size, generator=generator) for _ in range(3))
    v = torch.rand(blocks * size, generator=generator)
    age = torch.randint(0, 256, (blocks,), generator=generator).to(torch.uint8)
    t = torch.arange(256, dtype=torch.float64) * 3 + 1
    warmup = (t / 10).clamp(max=1.0)
    step_size, correction = settings_["lr"] * warmup / (1 - 0.9**t), (1 - 0.999**t).rsqrt()
    expected = [
        plain_smet_adam(
            *(x[i].item() for x in (w, g, m, v)),
            t[int(age[i // size])].item(),
            warmup[int(age[i // size])].item(),
            **settings_,
        )
        for i in range(blocks * size)
    ]
    with ops.using("torch" if portion else "native"):
        ops.adam_step(
            w, g, m, v, age, step_size.float(), correction.float(),
            gradient_factor=torch.tensor(1.0), beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, noise=0,
        )  # fmt: skip
    for got, want in zip((w, m, v), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(got, torch.tensor(want), rtol=2e-5, atol=1e-7)
    assert not g.any()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**20))
def test_adam_step_in_bf16_agrees_with_float32_up_to_one_rounding(seed):
    generator = torch.Generator().manual_seed(seed)
    stored = [torch.randn(50, generator=generator).bfloat16() for _ in range(2)] + [
        torch.rand(50, generator=generator).bfloat16()
    ]
    exact = [t.float() for t in stored]
    g = torch.randn(50, generator=generator)
    for w, m, v in (stored, exact):
        adam.adam_step(
            w, g.to(w.dtype), m, v, None, torch.tensor([0.1]), torch.tensor([1.0]), gradient_factor=torch.tensor(0.5),
            beta1=0.9, beta2=0.999, eps=1e-8, decay=0.01, noise=philox.stream(seed, 1),
        )  # fmt: skip
    for low, high in zip(stored, exact, strict=True):
        torch.testing.assert_close(low.float(), high, rtol=2**-7, atol=2e-3)
