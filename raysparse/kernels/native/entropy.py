"""Cross-entropy and its gradient in C: a row stays in the cache until its gradient is there."""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.kernels.native.library import function
from raysparse.kernels.torch import entropy

_OF = {torch.float32: "cross_entropy_f32", torch.bfloat16: "cross_entropy_bf16"}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats, float32 scalar, of logits (rows, vocabulary), which become
    its gradient; targets int64 (rows,). Both are contiguous; what is otherwise goes to torch.
    """
    operation = function(_OF.get(logits.dtype, "none"))
    is_told = targets.dtype == torch.int64 and targets.shape == logits.shape[:1] != (0,)
    if operation is None or not is_told or not all(t.is_contiguous() for t in (logits, targets)):
        return entropy.cross_entropy(logits, targets)
    least, most = (int(target) for target in targets.aminmax())
    if least < 0 or most >= logits.shape[1]:
        raise IndexError(f"targets reach from {least} to {most}, logits from 0 to {logits.shape[1] - 1}")
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    operation(*(t.data_ptr() for t in (logits, targets, losses)), *logits.shape, torch.get_num_threads())
    return losses.sum()
