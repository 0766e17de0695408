"""Rotary embedding and SwiGLU as a layer has them: from what a product made to what the next takes.

Their backward passes are written here, because on a GPU each is one kernel, which reads what the
product made and writes its gradient as the product wants it, and because what autograd would keep
(of SwiGLU a quarter of what an MLP keeps) is quickly made again. Compiled code takes the plain
formulas: the compiler fuses them, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from raysparse.kernels import ops
from raysparse.kernels.torch.pointwise import rotate


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cosine, sine)
        return ops.rotary(qkv, cosine, sine, heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = gradients
        return ops.rotary_gradient(q, k, v, *ctx.saved_tensors), None, None, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *made: Tensor) -> Tensor:
        ctx.save_for_backward(*made)
        return ops.swiglu(*_halves(made))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        made = ctx.saved_tensors
        found = tuple(torch.empty_like(part) for part in made)
        ops.swiglu_gradient(gradients[0], *_halves(made), *_halves(found))
        return found


def _halves(made: Sequence[Tensor]) -> Sequence[Tensor]:
    return made[0].chunk(2, dim=-1) if len(made) == 1 else made


def turned(made: Sequence[Tensor], cosine: Tensor, sine: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Queries and keys, turned by the angles of their positions (t, e), and values, each (b, heads,
    t, e), of the three as products made them, (b, t, h) each or side by side.
    """
    is_joined = len(made) == 1
    if is_joined and not torch.compiler.is_compiling():
        found: tuple[Tensor, ...] = _Rotary.apply(*made, cosine, sine, heads)  # type: ignore[no-untyped-call]
        return found
    parts = made[0].chunk(3, dim=-1) if is_joined else made
    q, k, v = (p.view(*p.shape[:2], heads, -1).transpose(1, 2) for p in parts)
    if is_joined:
        v = v.contiguous()  # a view would keep queries and keys for the backward pass, which has them turned
    return rotate(q, cosine, sine), rotate(k, cosine, sine), v


def swiglu(made: Sequence[Tensor]) -> Tensor:
    """silu(gate) * up, (..., width), of the two as products made them, one each or side by side."""
    if torch.compiler.is_compiling():
        gate, up = _halves(made)
        return F.silu(gate) * up
    found: Tensor = _SwiGLU.apply(*made)  # type: ignore[no-untyped-call]
    return found
