"""Cases of the conformance suite for what lies between the products of a layer, each with its
answer in float64: rotary embedding by complex numbers, SwiGLU by its formula and autograd.

Numbers are small: torch rounds to bfloat16 after every operation, by up to a 512th of what it adds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.kernels import ops
from tests.kernels.cases import FP32, Answer, Case


def small(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return (torch.randn(shape, device=device) / 4).to(dtype)


def rotary_case(which: str, shape: tuple[int, int, int, int], dtype: torch.dtype, *, device: str = "cpu") -> Case:
    """(sequences, tokens of one, heads, numbers of a head): a pair of numbers is a complex one."""
    b, t, heads, e = shape
    angle = torch.rand(t, e // 2, device=device, dtype=torch.float64) * 6
    cosine, sine = (table.repeat(1, 2).to(dtype) for table in (angle.cos(), angle.sin()))
    turn = torch.complex(cosine.double(), sine.double())[:, : e // 2]
    qkv = small(b, t, 3, heads, e, dtype=dtype, device=device).permute(2, 0, 3, 1, 4)  # (3, b, heads, t, e)
    pairs = torch.complex(*qkv.double().chunk(2, dim=-1))
    pairs[:2] *= turn if which == "rotary" else turn.conj()
    found = torch.cat([pairs.real, pairs.imag], dim=-1).to(dtype)
    rounding = 1e-5 if dtype == FP32 else 2**-7
    if which == "rotary":
        rows = qkv.permute(1, 3, 0, 2, 4).reshape(b, t, -1)
        return Case(ops.rotary, (rows, cosine, sine, heads), {}, {None: Answer(tuple(found), rounding)})
    rows = found.permute(1, 3, 0, 2, 4).reshape(b, t, -1)
    return Case(ops.rotary_gradient, (*qkv, cosine, sine), {}, {None: Answer(rows, rounding)})


def swiglu_case(
    which: str, shape: tuple[int, int], is_joined: bool, dtype: torch.dtype, *, device: str = "cpu"
) -> Case:
    """(tokens, width); joined, gate and up are the halves of wider rows, and so are their
    gradients.
    """
    tokens, width = shape
    both = [small(tokens, 2 * width, dtype=dtype, device=device) for _ in range(2)]
    (gate, up), places = ([part if is_joined else part.contiguous() for part in one.chunk(2, dim=1)] for one in both)
    d = small(tokens, width, dtype=dtype, device=device)
    g, u = (part.double().requires_grad_() for part in (gate, up))
    made = g * torch.sigmoid(g) * u
    rounding = 1e-5 if dtype == FP32 else 2**-7
    if which == "swiglu":
        return Case(ops.swiglu, (gate, up), {}, {None: Answer(made.detach().to(dtype), rounding)})
    found = torch.autograd.grad(made, (g, u), d.double())
    answers: dict[int | None, Answer] = {3 + n: Answer(one.to(dtype), rounding) for n, one in enumerate(found)}
    return Case(ops.swiglu_gradient, (d, gate, up, *places), {}, answers)
