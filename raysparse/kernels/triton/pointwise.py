"""What lies between the products of a layer, in Triton: rotary embedding and SwiGLU, one launch
each way.

A product of queries, keys and values leaves them side by side in the rows of one tensor, and so
does one of gate and up. Kernels read them there and write their gradients there, so nothing is cut
apart, turned by five operations and put together again: every number is read once and written once.

Computed in float32 and rounded once; torch rounds to bfloat16 after every operation, so the two
agree to bfloat16's rounding and not to the bit.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from raysparse.kernels.triton.bits import cast

PORTION = 1024  # numbers of a row that a program of SwiGLU takes


@triton.jit
def _turn(source, target, at, to, cosine, sine, inside, half: tl.constexpr):
    first = tl.load(source + at, mask=inside).to(tl.float32)
    second = tl.load(source + at + half, mask=inside).to(tl.float32)
    tl.store(target + to, cast(first * cosine - second * sine, target.dtype.element_ty), mask=inside)
    tl.store(target + to + half, cast(second * cosine + first * sine, target.dtype.element_ty), mask=inside)


@triton.jit
def _copy(source, target, at, to, inside, half: tl.constexpr):
    tl.store(target + to, tl.load(source + at, mask=inside), mask=inside)
    tl.store(target + to + half, tl.load(source + at + half, mask=inside), mask=inside)


@triton.jit
def _rotary(
    q, k, v, new_q, new_k, new_v, cosine, sine, stride, new_stride, t, pairs,
    half: tl.constexpr, back: tl.constexpr, count: tl.constexpr,
):  # fmt: skip
    """The pairs of one token, of queries, keys or values."""
    token, pair = tl.program_id(0), tl.arange(0, count)
    inside = pair < pairs
    place = pair // half * 2 * half + pair % half
    at, to = token.to(tl.int64) * stride + place, token.to(tl.int64) * new_stride + place
    angle = token % t * 2 * half + pair % half
    c = tl.load(cosine + angle, mask=inside).to(tl.float32)
    s = tl.load(sine + angle, mask=inside).to(tl.float32)
    if back:
        s = -s
    if tl.program_id(1) == 0:
        _turn(q, new_q, at, to, c, s, inside, half)
    elif tl.program_id(1) == 1:
        _turn(k, new_k, at, to, c, s, inside, half)
    else:
        _copy(v, new_v, at, to, inside, half)


@triton.jit
def _swiglu(gate, up, out, width, stride, count: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * count + tl.arange(0, count)
    inside = column < width
    g = tl.load(gate + row * stride + column, mask=inside).to(tl.float32)
    u = tl.load(up + row * stride + column, mask=inside).to(tl.float32)
    tl.store(out + row * width + column, cast(g * tl.sigmoid(g) * u, out.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_gradient(gradient, gate, up, new_gate, new_up, width, stride, new_stride, count: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * count + tl.arange(0, count)
    inside = column < width
    d = tl.load(gradient + row * width + column, mask=inside).to(tl.float32)
    g = tl.load(gate + row * stride + column, mask=inside).to(tl.float32)
    u = tl.load(up + row * stride + column, mask=inside).to(tl.float32)
    share = tl.sigmoid(g)
    to = row * new_stride + column
    tl.store(new_gate + to, cast(d * u * share * (1 + g * (1 - share)), new_gate.dtype.element_ty), mask=inside)
    tl.store(new_up + to, cast(d * g * share, new_up.dtype.element_ty), mask=inside)


def _turned(
    sources: tuple[Tensor, ...], targets: tuple[Tensor, ...], cosine: Tensor, sine: Tensor, *, back: bool
) -> None:
    """Queries, keys and values (b, t, h), whose rows may be parts of wider ones."""
    b, t, h = sources[0].shape
    pairs = h // 2
    _rotary[(b * t, 3)](
        *sources, *targets, cosine, sine, sources[0].stride(1), targets[0].stride(1), t, pairs,
        half=cosine.shape[1] // 2, back=back, count=triton.next_power_of_2(pairs),
    )  # fmt: skip


def rotary(qkv: Tensor, cosine: Tensor, sine: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    b, t, _ = qkv.shape
    sources = qkv.contiguous().chunk(3, dim=-1)
    q, k, v = (qkv.new_empty(b, t, heads, cosine.shape[1]) for _ in sources)
    _turned(sources, (q.flatten(2), k.flatten(2), v.flatten(2)), cosine, sine, back=False)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def rotary_gradient(q: Tensor, k: Tensor, v: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    b, heads, t, e = q.shape
    out = q.new_empty(b, t, 3 * heads * e)
    sources = tuple(part.transpose(1, 2).contiguous().flatten(2) for part in (q, k, v))
    _turned(sources, out.chunk(3, dim=-1), cosine, sine, back=True)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = gate.new_empty(gate.shape)
    rows, width, stride = _rows(gate)
    _swiglu[(rows, triton.cdiv(width, PORTION))](gate, up, out, width, stride, PORTION)
    return out


def swiglu_gradient(gradient: Tensor, gate: Tensor, up: Tensor, gate_gradient: Tensor, up_gradient: Tensor) -> None:
    rows, width, stride = _rows(gate)
    _swiglu_gradient[(rows, triton.cdiv(width, PORTION))](
        gradient.contiguous(), gate, up, gate_gradient, up_gradient, width, stride, _rows(gate_gradient)[2], PORTION
    )


def _rows(x: Tensor) -> tuple[int, int, int]:
    """(rows, width, numbers from row to row) of a tensor whose last dimension lies side by side."""
    flat = x.view(-1, x.shape[-1])
    return len(flat), flat.shape[1], flat.stride(0)
