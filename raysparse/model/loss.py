"""Output head and cross-entropy in one, a portion of the tokens at a time, so that the logits never exist whole.

At the papers' sizes the logits are the largest tensor of all: 32k tokens x 32k vocabulary in bf16, fp32 and their gradient take
10 GB. The decision that shaped this file: gradients are made in the forward pass, portion by portion, while the logits of a portion
are at hand; the backward pass only hands them on. Losses and softmax are float32 whatever the compute dtype.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from raysparse.counts import LOGIT_CHUNK_ELEMENTS


def _portions(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGIT_CHUNK_ELEMENTS // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros_like(head)
        for part in _portions(len(hidden), len(head)):
            logits = (hidden[part] @ head.t()).float()
            logsum = logits.logsumexp(dim=1, keepdim=True)
            picked = logits.gather(1, targets[part].unsqueeze(1))
            total += (logsum - picked).sum()
            probability = logits.sub_(logsum).exp_()
            probability.scatter_add_(1, targets[part].unsqueeze(1), torch.full_like(picked, -1.0))
            gradient = probability.to(hidden.dtype)
            torch.mm(gradient, head, out=hidden_gradient[part])
            head_gradient.addmm_(gradient.t(), hidden[part])
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * gradients[0], head_gradient * gradients[0], None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a loop over portions, with its own backward
def head_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats, float32 scalar. hidden (tokens, width), head (vocabulary, width), targets (tokens,)."""
    if torch.is_grad_enabled():
        total: Tensor = _HeadLoss.apply(hidden, head, targets)  # type: ignore[no-untyped-call]
        return total
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    for part in _portions(len(hidden), len(head)):
        total += F.cross_entropy((hidden[part] @ head.t()).float(), targets[part], reduction="sum")
    return total
