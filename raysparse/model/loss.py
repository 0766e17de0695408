"""Output head and cross-entropy in one, a portion of the tokens at a time, so that the logits never
exist whole.

At the papers' sizes the logits are the largest tensor of all: 32k tokens x 32k vocabulary in bf16,
fp32 and their gradient take 10 GB. Gradients are made in the forward pass, portion by portion,
while the logits of a portion are at hand; the backward pass only hands them on. Losses, softmax and
the sum of the head's gradient over portions are float32 whatever the compute dtype: kept in
bfloat16, a sum over 250 portions is 1.9 % off, in float32 0.24 % as over one portion.

On a GPU, Liger-Kernel does the same where it is installed (`pip install '.[gpu]'`), with
its passes over the logits fused. Left out: torch 2.13's own linear_cross_entropy, since older torch
must do.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from raysparse import memory
from raysparse.kernels import ops
from raysparse.model.apart import apart


@functools.cache
def liger_loss() -> Callable[..., Tensor] | None:
    """Liger-Kernel's fused linear cross-entropy, or None where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return None
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    return functools.partial(liger_fused_linear_cross_entropy, reduction="sum", accum_dtype=torch.float32)


def _fused(hidden: Tensor) -> Callable[..., Tensor] | None:
    return liger_loss() if hidden.is_cuda else None


def _portions(tokens: int, head: Tensor) -> list[slice]:
    size = max(1, memory.logit_elements(tokens, len(head), head.shape[1], head.device.type) // len(head))
    return [slice(start, start + size) for start in range(0, tokens, size)]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        weight = head.to(hidden.dtype)
        targets = targets.contiguous()  # of sequences of one token they are every second
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.empty_like(head, dtype=torch.float32)  # the first portion fills it
        for part in _portions(len(hidden), head):
            gradient = hidden[part] @ weight.t()  # logits, and after the next line their gradient
            total += ops.cross_entropy(gradient, targets[part])
            torch.mm(gradient, weight, out=hidden_gradient[part])
            if gradient.dtype == torch.float32:
                head_gradient.addmm_(gradient.t(), hidden[part], beta=0 if part.start == 0 else 1)
            elif part.start == 0:
                head_gradient.copy_(gradient.t() @ hidden[part])
            else:
                ops.accumulate(gradient.t() @ hidden[part], head_gradient.view(-1))
        ctx.save_for_backward(hidden_gradient, head_gradient.to(head.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors  # nobody else's: scaled where they are
        return hidden_gradient.mul_(gradients[0]), head_gradient.mul_(gradients[0]), None


def own_head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """`head_loss` with gradients, in plain torch."""
    total: Tensor = _HeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
    return total


@apart  # a loop over portions, with its own backward
def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats, float32 scalar.

    hidden (tokens, width) in the compute dtype, head (vocabulary, width) as it is stored, targets
    (tokens,).
    """
    if torch.is_grad_enabled():
        fused = _fused(hidden)
        return own_head_loss(hidden, head, targets) if fused is None else fused(hidden, head.to(hidden.dtype), targets)
    weight, total = head.to(hidden.dtype), torch.zeros((), dtype=torch.float32, device=hidden.device)
    for part in _portions(len(hidden), head):
        total += F.cross_entropy((hidden[part] @ weight.t()).float(), targets[part], reduction="sum")
    return total
