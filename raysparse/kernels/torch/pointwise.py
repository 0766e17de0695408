"""What lies between the products of a layer, in plain torch, forward and backward: rotary embedding
and SwiGLU.

Legend: b sequences, t tokens of one, a heads, e numbers of a head, h = a e.

Rotary embedding turns the numbers i and i + e/2 of a head by the angle of their position (arXiv
2104.09864, in the form with halves); its gradient turns back. SwiGLU is silu(gate) * up (arXiv
2002.05202). Backward passes work from what the products made, so what is made here need not be
kept.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x (..., t, e) turned by its position's angle; cosine and sine (t, e), the same for both
    halves of a head.
    """
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def rotary(qkv: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, turned, and values, (b, a, t, e), not views; of qkv (b, t, 3 h)."""
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)
    return rotate(q, cosine, sine), rotate(k, cosine, sine), v.contiguous()


def rotary_gradient(q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """The gradient of (b, t, 3 h), of the gradients of queries, keys and values (b, a, t, e)."""
    b, _, t, _ = q.shape
    back = torch.stack([rotate(q, cosine, -sine), rotate(k, cosine, -sine), v])
    return back.permute(1, 3, 0, 2, 4).reshape(b, t, -1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of (..., width); both may lie within wider rows, one like the other."""
    return F.silu(gate).mul_(up)


def swiglu_gradient(gradient: Tensor, gate: Tensor, up: Tensor, gate_gradient: Tensor, up_gradient: Tensor) -> None:
    """Fill the gradients of gate and up, which may lie within wider rows too."""
    torch.ops.aten.silu.out(gate, out=up_gradient)
    up_gradient.mul_(gradient)
    torch.mul(gradient, up, out=gate_gradient)
    torch.ops.aten.silu_backward.grad_input(gate_gradient, gate, grad_input=gate_gradient)
