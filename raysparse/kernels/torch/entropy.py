"""Cross-entropy and its gradient at once, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats, float32 scalar, of logits (rows, vocabulary), which become
    its gradient; targets int64 (rows,). Both are contiguous. What lies between is float32.
    """
    target = targets.unsqueeze(1)
    probability = F.log_softmax(logits, dim=1, dtype=torch.float32)
    total = -probability.gather(1, target).sum()
    logits.copy_(probability.exp_().scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32)))
    return total
