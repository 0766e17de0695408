"""The SMET-Adam step in plain torch, over flat tensors of n active weights in blocks of `size`.

Whatever depends on a weight's age takes one of 256 values (ages are kept as a count of topology
updates in one byte), so bias correction and warm-up are two small tables worked out in float64, and
the step is one sequence of multiply-adds over a portion of flat memory that stays in the cache.
Portions also keep temporaries at a few hundred KB, however large the model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.kernels import philox

# The optimizer step works on this many weights at a time, and on a quarter where it rounds: 2 MB of
# temporaries.
STEP_PORTION = 1 << 17


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
    """One Adam step in place over flat tensors, with per-age bias correction and warm-up (SMET
    sections 3.1 and 3.2), after which the gradient is 0.

    age: uint8, one for each block of n / len(age) weights: which entry of the tables it uses; None
    uses entry 0 for all. step_size: float32 (256,), learning rate x warm-up / (1 - beta1^t) by age;
    correction: 1 / sqrt(1 - beta2^t) by age. gradient_factor: scalar tensor the gradient is
    multiplied by (clipping). decay: learning rate x weight decay. noise: Philox key for stochastic
    rounding of tensors stored in bf16; weight i of them uses counter i.
    """
    size = values.numel() // age.numel() if age is not None else 1
    is_rounded = any(t.dtype != torch.float32 for t in (values, exp_avg, exp_avg_sq))
    portion = max(1, STEP_PORTION // (4 if is_rounded else 1) // size) * size
    memory = torch.empty(min(portion, values.numel()), device=values.device)
    factors = torch.empty(len(memory) // size, device=values.device)
    for start in range(0, values.numel(), portion):
        part = slice(start, min(start + portion, values.numel()))
        entry = None if age is None else age[part.start // size : part.stop // size].int()
        stored = [t[part].view(-1, size) for t in (values, exp_avg, exp_avg_sq)]
        w, m, v = (t.float() for t in stored)  # float32 storage is updated in place: .float() is then no copy
        g = torch.mul(grad[part].float().view(-1, size), gradient_factor, out=memory[: w.numel()].view_as(w))
        grad[part].zero_()
        m.lerp_(g, 1.0 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1.0 - beta2)
        denominator = torch.sqrt(v, out=g).mul_(_by_age(correction, entry, factors)).add_(eps)
        if decay:
            w.mul_(1.0 - decay)
        w.sub_(torch.div(m, denominator, out=denominator).mul_(_by_age(step_size, entry, factors)))
        if is_rounded:
            _store(stored, [w, m, v], noise, part)


def _by_age(table: Tensor, entry: Tensor | None, out: Tensor) -> Tensor:
    """Each block's number (blocks, 1), in the memory of `out`; one for all without entries."""
    return table[0] if entry is None else torch.index_select(table, 0, entry, out=out[: len(entry)]).unsqueeze(1)


def _store(stored: list[Tensor], results: list[Tensor], noise: int, part: slice) -> None:
    """Put results back where storage is not float32, each rounded with its own 16 of a weight's 64
    random bits.
    """
    first = part.start // 2  # a counter serves two weights
    pairs = philox.quadruples(noise, first, -(-part.stop // 2), device=results[0].device).view(-1, 2)
    words = pairs[part.start - 2 * first : part.stop - 2 * first]
    rounding = (words[:, 0], (words[:, 0] << 16) & 0xFFFFFFFF, words[:, 1])
    for word, target, result in zip(rounding, stored, results, strict=True):
        if target.dtype != torch.float32:
            target.copy_(round_stochastically(result, word.view_as(result)))


def round_stochastically(x: Tensor, word: Tensor) -> Tensor:
    """float32 -> bfloat16, up or down with probability by distance, so that small steps are kept in
    expectation.

    Adds the upper 16 bits of `word` (random, in [0, 2**32)) below the bfloat16 mantissa and
    truncates. Infinities and NaN pass.
    """
    bits = x.contiguous().view(torch.int32)
    rounded = ((bits + (word >> 16).to(torch.int32)) & -65536).view(torch.float32)
    return torch.where(torch.isfinite(x), rounded, x).to(torch.bfloat16)
