"""The SMET-Adam step in C: one pass over tensors that are all stored in float32. Where storage is
bfloat16, and rounding takes random words, the twin in torch does it.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from raysparse.kernels.native.library import function
from raysparse.kernels.torch import adam


class _Step(ctypes.Structure):
    """`Step` of kernels.c."""

    _fields_ = [(name, ctypes.c_float) for name in ("gradient_factor", "first", "beta2", "second", "eps", "keep")]


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
    """One Adam step in place over flat tensors, after which the gradient is 0; arguments are those
    of `raysparse/kernels/torch/adam.py`.
    """
    state = values, grad, exp_avg, exp_avg_sq
    operation = function("adam")
    if operation is None or any(t.dtype != torch.float32 or not t.is_contiguous() for t in state):
        adam.adam_step(
            *state, age, step_size, correction, gradient_factor=gradient_factor, beta1=beta1, beta2=beta2, eps=eps,
            decay=decay, noise=noise,
        )  # fmt: skip
        return
    told = _Step(float(gradient_factor), 1.0 - beta1, beta2, 1.0 - beta2, eps, 1.0 - decay)
    operation(
        *(t.data_ptr() for t in state), None if age is None else age.data_ptr(), step_size.data_ptr(),
        correction.data_ptr(), ctypes.addressof(told), values.numel(), 1 if age is None else values.numel() // len(age),
        torch.get_num_threads(),
    )  # fmt: skip
