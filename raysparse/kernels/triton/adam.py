"""The SMET-Adam step in Triton: every state of an arena is read once and written once, in one
launch.

Formula (SMET, arXiv 2606.00888, section 3), for a weight whose block has the stored age a:
    m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2,  w = (1 - decay) w - step_size[a] m /
    (sqrt(v) correction[a] + eps)
What depends on the age is two tables of 256 numbers, made in float64 by
`sparsity.optimizer.age_tables`.

The kernel waits for nothing. Clip factor and tables are read from device memory, so the host
may run ahead of the device by a whole step.

Hazards. bfloat16 moments do not decay under nearest rounding (v * 0.999 is v again), so bfloat16
storage is rounded stochastically, with the words that its twin takes: lanes 0, 1, 2 of Philox
counter i for value and moments of weight i. Square root and division are the hardware's (2 units in
the last place of float32): the IEEE ones cost 35 of 187 instructions a weight (sm_90), and what
they differ in moves one bfloat16 in some 2^15. Philox is 80 of the 152 that remain; bandwidth
leaves time for about 100.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.triton.bits import cast

PORTION = 1024  # weights a program


@triton.jit
def round_stochastically(x, word):
    """float32 values that bfloat16 can hold, up or down with probability by distance; infinities
    and NaN pass.
    """
    bits = x.to(tl.int32, bitcast=True)
    rounded = (bits + (word >> 16).to(tl.int32)) & -65536
    is_finite = (bits & 0x7F800000) != 0x7F800000
    return tl.where(is_finite, rounded.to(tl.float32, bitcast=True), x)


@triton.jit
def _store(pointer, x, word, inside):
    if pointer.dtype.element_ty == tl.bfloat16:
        x = round_stochastically(x, word)
    tl.store(pointer, cast(x, pointer.dtype.element_ty), mask=inside)


@triton.jit
def _two_words(noise, counter, count: tl.constexpr):
    a, b, c, d = tl.randint4x(noise, counter + tl.arange(0, count // 2))
    return tl.reshape(tl.join(a, c), (count,)), tl.reshape(tl.join(b, d), (count,))


@triton.jit(do_not_specialize=["noise"])
def _adam_step(
    values, grad, exp_avg, exp_avg_sq, age, step_size, correction, gradient_factor, total,
    weight1, beta2, weight2, eps, keep, noise,
    size: tl.constexpr, portion: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * portion + tl.arange(0, portion)
    inside = at < total
    w = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(exp_avg + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(exp_avg_sq + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32) * tl.load(gradient_factor)
    tl.store(grad + at, 0.0, mask=inside)
    if age is not None:
        entry = tl.load(age + at // size, mask=inside, other=0).to(tl.int32)
        rate, unbias = tl.load(step_size + entry), tl.load(correction + entry)
    else:
        rate, unbias = tl.load(step_size), tl.load(correction)
    m += weight1 * (g - m)
    v = v * beta2 + weight2 * g * g
    w = w * keep - m / (tl.sqrt(v) * unbias + eps) * rate
    first, second = _two_words(noise, tl.program_id(0).to(tl.int64) * (portion // 2), portion)
    _store(values + at, w, first, inside)
    _store(exp_avg + at, m, first << 16, inside)
    _store(exp_avg_sq + at, v, second, inside)


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
    """One step in place over flat tensors, without waiting for the device. The arguments are those
    of `raysparse/kernels/torch/adam.py`.
    """
    total = values.numel()
    _adam_step[(triton.cdiv(total, PORTION),)](
        values, grad, exp_avg, exp_avg_sq, age, step_size, correction, gradient_factor, total,
        1.0 - beta1, beta2, 1.0 - beta2, eps, 1.0 - decay, signed(noise),
        size=total // age.numel() if age is not None else 1, portion=PORTION, enable_fp_fusion=True,
    )  # fmt: skip


def signed(key: int) -> int:
    """A 64-bit Philox key as the signed number of the same bits: Triton passes keys above and below
    2^63 as different types.
    """
    return key - (1 << 64) if key >= 1 << 63 else key
