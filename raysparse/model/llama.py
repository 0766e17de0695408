"""LLaMA, short: RMSNorm, rotary embedding, SwiGLU, no biases, untied head (docs/method.md).

Legend: b sequences, t tokens of one, h hidden width, a heads, e = h / a.

The model does not know whether it is sparse. It is built over `SparseWeights`, which hold the seven
projections of every layer, dense ones included; embedding, head and norms are ordinary parameters.
It returns losses and hidden states, never logits. Reading on from where a `Cache` stands is a path
of its own through attention alone; everything else is as in training. Left out: sampling
(`raysparse/release/sample.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raysparse.kernels import philox
from raysparse.model.apart import apart, tell_the_compiler
from raysparse.model.cache import Cache
from raysparse.model.dropout import ATTENTION, MLP, Dropout
from raysparse.model.loss import head_loss
from raysparse.model.pointwise import swiglu, turned
from raysparse.model.sparse_linear import DenseLinear, SparseLinear
from raysparse.placement import Recompute
from raysparse.sparsity.arena import COMPUTE_DTYPE, STORAGE_DTYPE
from raysparse.sparsity.storage import INIT_STD, SparseWeights
from raysparse.spec import ModelSpec, TrialSpec

NORM_EPS = 1e-6
ROTARY_BASE = 10_000.0
DENSE_VALUES = 6  # what a Philox stream is for


class Norm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, width: int, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), NORM_EPS)


def rotary_tables(model: ModelSpec) -> tuple[Tensor, Tensor]:
    """(cosine, sine) of shape (context, e), float32; halves of a head turn together."""
    e = model.hidden // model.heads
    frequency = ROTARY_BASE ** (-torch.arange(0, e, 2, dtype=torch.float64) / e)
    angle = torch.arange(model.context, dtype=torch.float64)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos().float(), angle.sin().float()


def again(part: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """part(*inputs), of which the backward pass keeps the inputs alone and makes the rest again.

    The same operations on the same numbers, so the same bits: what is dropped is a function of its
    place (`dropout`), and a sparse product's gradient is written once, by the first pass's node.
    """
    if not torch.is_grad_enabled():
        return part(*inputs)
    made: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False, determinism_check="none")
    return made


class Layer(nn.Module):
    """One block: attention and MLP, each behind a norm, each added to the residual stream."""

    def __init__(
        self, number: int, model: ModelSpec, weights: SparseWeights, dtype: torch.dtype, recompute: Recompute,
        compiled: bool,
    ):  # fmt: skip
        super().__init__()
        self.number, self.heads, self.recompute = number, model.heads, recompute
        self.attention_norm = Norm(model.hidden, dtype)
        self.mlp_norm = Norm(model.hidden, dtype)

        def linear(*names: str) -> nn.Module:
            names = tuple(f"layers.{number}.{name}" for name in names)
            is_dense = all(weights.matrices[name].layout.is_full for name in names)
            return (DenseLinear if compiled and is_dense else SparseLinear)(weights, *names)

        self.qkv, self.output = (
            linear("attention.query", "attention.key", "attention.value"),
            linear("attention.output"),
        )
        self.gate_up, self.down = linear("mlp.gate", "mlp.up"), linear("mlp.down")

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, dropout: Dropout | None, cache: Cache | None = None
    ) -> Tensor:
        attended = self.attend(self.attention_norm(x), cosine, sine, cache)
        x = x + (attended if dropout is None else self.drop(dropout, attended, ATTENTION))
        return again(self.mix, x, dropout) if self.recompute == "mlp" else self.mix(x, dropout)

    def mix(self, x: Tensor, dropout: Dropout | None) -> Tensor:
        """The layer's second half: x plus the MLP of it."""
        mixed: Tensor
        (mixed,) = self.down(swiglu(self.gate_up(self.mlp_norm(x))))
        return x + (mixed if dropout is None else self.drop(dropout, mixed, MLP))

    # A compiler that saw the layer's number, or the step that makes the key, would compile every
    # layer and step anew.
    @apart
    def drop(self, dropout: Dropout, branch: Tensor, place: int) -> Tensor:
        """The branch with this layer's numbers of that place dropped."""
        return dropout(branch, self.number, place)

    def attend(self, z: Tensor, cosine: Tensor, sine: Tensor, cache: Cache | None = None) -> Tensor:
        b, t, h = z.shape
        q, k, v = turned(self.qkv(z), cosine, sine, self.heads)  # (b, a, t, e)
        if cache is None:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = cache.extend(self.number, k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=cache.visible(t))
        projected: Tensor
        (projected,) = self.output(mixed.transpose(1, 2).reshape(b, t, h))
        return projected


class Llama(nn.Module):
    """The model of a trial, over `weights`; `recompute` as in `Placement`. compiled: its layers
    are, one code for all of them, however deep the model, and the last norm.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self, spec: TrialSpec, weights: SparseWeights, recompute: Recompute = "none", *, compiled: bool = False
    ):
        super().__init__()
        self.recompute = recompute
        model, dtype = spec.model, STORAGE_DTYPE[spec.precision]
        self.compute_dtype = COMPUTE_DTYPE[spec.precision]
        generator = torch.Generator().manual_seed(philox.stream(spec.seed, DENSE_VALUES) >> 1)

        def table() -> nn.Parameter:
            initial = torch.empty(model.vocab_size, model.hidden).normal_(0.0, INIT_STD, generator=generator)
            return nn.Parameter(initial.to(dtype))

        self.embedding, self.head = table(), table()
        layers = [Layer(n, model, weights, dtype, recompute, compiled) for n in range(model.layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = Norm(model.hidden, dtype)
        if compiled:
            tell_the_compiler()
            for part in (*layers, self.norm):
                part.compile()
        cosine, sine = rotary_tables(model)
        self.register_buffer("cosine", cosine.to(self.compute_dtype), persistent=False)
        self.register_buffer("sine", sine.to(self.compute_dtype), persistent=False)

    def tables(self) -> list[nn.Parameter]:
        """Embedding and head, in the order in which they are stored."""
        return [self.embedding, self.head]

    def norms(self) -> list[nn.Parameter]:
        """The weights of all norms, in the order in which they are stored."""
        return [p for p in self.parameters() if p.dim() == 1]

    def hidden(self, tokens: Tensor, dropout: Dropout | None = None, cache: Cache | None = None) -> Tensor:
        """Final normed hidden states (b, t, h) of tokens (b, t), which stand behind those that the
        cache holds and are added to it.
        """
        x = F.embedding(tokens, self.embedding).to(self.compute_dtype)
        here = slice(0, tokens.shape[1]) if cache is None else cache.places(tokens.shape[1])
        for layer in self.layers:
            inputs = x, self.cosine[here], self.sine[here], dropout, cache
            x = again(layer, *inputs) if self.recompute == "layer" else layer(*inputs)
        if cache is not None:
            cache.length = here.stop
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor, dropout: Dropout | None = None) -> Tensor:
        """Sum of next-token cross-entropies in nats, float32 scalar, over tokens (b, t + 1); with
        what is dropped in training.
        """
        hidden = self.hidden(tokens[:, :-1], dropout)
        loss: Tensor = head_loss(hidden.flatten(0, 1), self.head, tokens[:, 1:].flatten())
        return loss
