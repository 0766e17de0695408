"""SMET's Adam: local ages, regrowth warm-up, density-aware learning rate, over arenas of compact
storage.

There is one optimizer for everything. Dense parameters and sparse matrices are arenas that differ
in two numbers (learning-rate factor, weight decay) and in whether they have ages; plain Adam
(methods dense, static, set, rigl) is the case without ages. At density 1 it is therefore
`torch.optim.Adam` to rounding, which a test holds.

Formulas (SMET, arXiv 2606.00888, section 3; docs/method.md), t the age of a weight in steps, W
the warm-up:
    m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t),  w -= lr * min(t / W, 1) * m_hat /
    (sqrt(v_hat) + eps)
The warm-up scales the update and leaves the moments alone (the paper's form; the released code
scales the momentum buffer).
It applies to regrown weights only: weights that are there from the start take the run's own
warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.kernels import ops, philox
from raysparse.sparsity.arena import FROM_THE_START, Arena
from raysparse.sparsity.transfer import sent
from raysparse.spec import OptimizerSpec, SparsitySpec, TrialSpec

ROUNDING = 3  # what a Philox stream is for


def learning_rate(spec: OptimizerSpec, step: int, steps: int) -> float:
    """Rate of the dense parameters at 1-based `step`: linear warm-up, then cosine to
    `final_lr_fraction` of the peak.
    """
    warmup = max(1, round(spec.warmup_fraction * steps))
    if step <= warmup:
        return spec.lr * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return spec.lr * (spec.final_lr_fraction + (1.0 - spec.final_lr_fraction) * cosine)


def age_tables(optimizer: OptimizerSpec, sparsity: SparsitySpec, *, rate: float, step: int) -> tuple[Tensor, Tensor]:
    """(step size, correction) of `kernels.ops.adam_step` for every stored age 0..255,
    float32, worked out in float64.

    A block regrown k topology updates ago has taken t = k * update_every + (steps since the last
    update) steps.
    """
    since_update = (step - 1) % sparsity.update_every + 1
    t = torch.arange(FROM_THE_START + 1, dtype=torch.float64) * sparsity.update_every + since_update
    warmup = (t / max(1, sparsity.regrowth_warmup)).clamp(max=1.0)
    t[FROM_THE_START], warmup[FROM_THE_START] = step, 1.0
    step_size = rate * warmup / (1.0 - optimizer.beta1**t)
    correction = (1.0 - optimizer.beta2**t).rsqrt()
    return step_size.float(), correction.float()


def average_share(optimizer: OptimizerSpec, step: int, steps: int) -> float:
    """Weight of the values after 1-based `step` in their moving average, whose memory fades by b =
    exp(-1 / (average x steps)) a step: (1 - b) / (1 - b^step).

    The average is thereby normalised from its first step on, when it is the values themselves: the
    initial weights are no part of it (the bias correction of Adam, written as a step size).
    """
    time_scale = optimizer.average * steps
    return math.expm1(-1.0 / time_scale) / math.expm1(-step / time_scale)


@dataclass
class Group:
    """An arena and how it is treated: its rate is lr * factor."""

    arena: Arena
    factor: float = 1.0
    decays: bool = True


class Smet:
    """The optimizer over all groups of a trial. It has no state of its own: moments, ages and
    averages are in the arenas.
    """

    def __init__(self, spec: TrialSpec, groups: list[Group]):
        self.spec, self.groups = spec, groups

    def gradient_norm(self) -> Tensor:
        """Euclidean norm over all gradients, dense and compact, float32 scalar on the device."""
        norms = [torch.linalg.vector_norm(g.arena.grad, dtype=torch.float32) for g in self.groups]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return norm

    def clip_factor(self, norm: Tensor) -> Tensor:
        """What gradients are multiplied by so that their norm is at most `clip`; 1 when clipping is
        off.
        """
        clip = self.spec.optimizer.clip
        if not clip:
            return torch.ones_like(norm)
        ratio: Tensor = clip / (norm + 1e-6)
        return ratio.clamp(max=1.0)

    def step(self, step: int, gradient_factor: Tensor) -> float:
        """Take 1-based optimizer step `step`, clear the gradients, and return the dense learning
        rate that was used.
        """
        spec = self.spec.optimizer
        rate = learning_rate(spec, step, self.spec.steps)
        tables = [age_tables(spec, self.spec.sparsity, rate=rate * g.factor, step=step) for g in self.groups]
        there = sent(torch.stack([t for pair in tables for t in pair]), gradient_factor.device)
        for number, group in enumerate(self.groups):
            arena = group.arena
            first = FROM_THE_START if arena.age is None else 0  # one entry for everything: the run's own step count
            ops.adam_step(
                arena.values, arena.grad, arena.exp_avg, arena.exp_avg_sq, arena.age,
                there[2 * number, first:], there[2 * number + 1, first:],
                gradient_factor=gradient_factor, beta1=spec.beta1, beta2=spec.beta2, eps=spec.eps,
                decay=spec.decay(rate, group.factor, self.spec.steps) if group.decays else 0.0,
                noise=philox.stream(self.spec.seed, step, number, ROUNDING),
            )  # fmt: skip
            arena.revision += 1
            if arena.average is not None:
                arena.follow(average_share(spec, step, self.spec.steps))
        return rate
