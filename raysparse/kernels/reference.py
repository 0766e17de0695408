"""The operations on compact storage in plain torch: the definition that every faster kernel must equal, and the CPU path.

Legend: n active weights of a matrix, b blocks of it, k a count of blocks. `values`, `grad` and the moments are flat tensors of n;
`index` is the sorted list of active block numbers.

The decision that shaped this file: whatever depends on a weight's age takes one of 256 values (ages are kept as a count of topology
updates in one byte), so bias correction and warm-up are two small tables worked out in float64, and the step itself is one
pass of multiply-adds over flat memory. Selections compare integers that are unique by construction, so there are no ties to break
differently on another device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.kernels import philox

# The optimizer step works in portions of this many weights, so its temporaries stay a few MB whatever the model's size.
STEP_PORTION = 1 << 18


def expand(values: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """Write a matrix of single weights or of runs into dense memory: `out` (blocks, size) is zeroed, then out[index] = values."""
    out.zero_()
    rows = values.view(-1, out.shape[1]) if values.dtype == out.dtype else values.view(-1, out.shape[1]).to(out.dtype)
    if out.shape[1] == 1:
        out.view(-1).scatter_(0, index, rows.view(-1))
    else:
        out.index_copy_(0, index.long(), rows)
    return out


def compact_accumulate(dense: Tensor, index: Tensor, grad: Tensor) -> None:
    """grad += dense[index], with `dense` (blocks, size) and `grad` flat."""
    grad.view(-1, dense.shape[1]).add_(dense.index_select(0, index))


def adam_step(
    values: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    age: Tensor | None,
    step_size: Tensor,
    correction: Tensor,
    *,
    gradient_factor: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
    noise: int,
) -> None:
    """One Adam step in place over flat tensors, with per-age bias correction and warm-up (SMET sections 3.1 and 3.2).

    age: uint8, one for each block of n / len(age) weights: which entry of the tables it uses; None uses entry 0 for all.
    step_size: float32 (256,), learning rate x warm-up / (1 - beta1^t) by age; correction: 1 / sqrt(1 - beta2^t) by age.
    gradient_factor: scalar tensor the gradient is multiplied by (clipping). decay: learning rate x weight decay.
    noise: Philox key for stochastic rounding of tensors stored in bf16; not used for float32.
    """
    size = values.numel() // age.numel() if age is not None else 1
    portion = max(1, STEP_PORTION // size)
    values, grad, exp_avg, exp_avg_sq = (t.view(-1, size) for t in (values, grad, exp_avg, exp_avg_sq))
    for number, start in enumerate(range(0, len(values), portion)):
        part = slice(start, start + portion)
        entry = torch.zeros(1, dtype=torch.int32, device=values.device) if age is None else age[part].int()
        stored = (values[part], exp_avg[part], exp_avg_sq[part])
        w, m, v = (t.float() for t in stored)  # float32 storage is updated in place: .float() is then no copy
        g = grad[part].float() * gradient_factor
        m.lerp_(g, 1.0 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        denominator = v.sqrt().mul_(correction[entry].unsqueeze(1)).add_(eps)
        if decay:
            w.mul_(1.0 - decay)
        w.sub_(torch.div(m, denominator, out=denominator).mul_(step_size[entry].unsqueeze(1)))
        for lane, (target, result) in enumerate(zip(stored, (w, m, v), strict=True)):
            if target.dtype == torch.bfloat16:
                target.copy_(round_stochastically(result, philox.stream(noise, number, lane)))


def round_stochastically(x: Tensor, key: int) -> Tensor:
    """float32 -> bfloat16, up or down with probability by distance, so that small steps are kept in expectation.

    Adds 16 random bits below the bfloat16 mantissa and truncates. Infinities and NaN pass unchanged.
    """
    bits = x.contiguous().view(torch.int32)
    noise = (philox.words(key, x.numel(), device=x.device) >> 16).to(torch.int32).view_as(bits)
    rounded = ((bits + noise) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(x), rounded, x).to(torch.bfloat16)


def block_scores(values: Tensor, size: int) -> Tensor:
    """Sum of |w| over each block of `size` weights, float32 (b,) (the released code's score of a block)."""
    return values.float().abs().view(-1, size).sum(dim=1)


def order_bits(scores: Tensor) -> Tensor:
    """int64 numbers that sort as the non-negative float32 `scores` do."""
    return scores.contiguous().view(torch.int32).long()


def smallest(keys: Tensor, k: int) -> Tensor:
    """Positions of the k smallest keys, ascending by position, int64 (k,).

    keys: int64 in [0, 2**32). Equal keys are taken in order of position, so the answer is unique.
    """
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=keys.device)
    unique = (keys << 31) | torch.arange(keys.numel(), device=keys.device)
    return torch.topk(unique, k, largest=False, sorted=False).indices.sort().values
