"""Cross-entropy and its gradient in Triton: a program a row, which reads it three times, the second
and third time from the cache, and writes it once.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.triton.bits import cast

PORTION = 4096  # logits of a row at a time


@triton.jit
def _cross_entropy(logits, targets, losses, columns, portion: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * columns
    target = tl.load(targets + row)
    right = tl.load(logits + target).to(tl.float32)
    column = tl.arange(0, portion)
    most = tl.full((portion,), float("-inf"), tl.float32)
    for start in range(0, columns, portion):
        inside = start + column < columns
        x = tl.load(logits + start + column, mask=inside, other=float("-inf")).to(tl.float32)
        most = tl.maximum(most, x)
    peak = tl.max(most, axis=0)
    total = tl.zeros((portion,), tl.float32)
    for start in range(0, columns, portion):
        inside = start + column < columns
        x = tl.load(logits + start + column, mask=inside, other=float("-inf")).to(tl.float32)
        total += tl.exp(x - peak)
    every = tl.sum(total, axis=0)
    share = 1.0 / every
    tl.store(losses + row, tl.log(every) - (right - peak))  # beside a large peak a logarithm is lost
    for start in range(0, columns, portion):
        inside = start + column < columns
        x = tl.load(logits + start + column, mask=inside).to(tl.float32)
        gradient = tl.exp(x - peak) * share - tl.where(start + column == target, 1.0, 0.0)
        tl.store(logits + start + column, cast(gradient, logits.dtype.element_ty), mask=inside)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats, float32 scalar, of logits (rows, vocabulary), which become
    its gradient; targets int64 (rows,). Both are contiguous.
    """
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    portion = min(PORTION, triton.next_power_of_2(logits.shape[1]))
    _cross_entropy[(len(logits),)](logits, targets, losses, logits.shape[1], portion=portion)
    return losses.sum()
