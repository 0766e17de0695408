"""A LLaMA as anyone would write it today: what our dense step must be judged by.

torch.nn modules, scaled_dot_product_attention, all logits at once, fused AdamW; nothing of
raysparse but the shape of a model. With `compiled`, torch.compile makes forward and backward of a
block (one for all of them, which compiles in seconds at any depth) and of the head with its loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from raysparse.spec import ModelSpec, Precision


class Block(nn.Module):
    def __init__(self, h: int, i: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(h, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(h, 3 * h, bias=False), nn.Linear(h, h, bias=False)
        self.gate_up, self.down = nn.Linear(h, 2 * i, bias=False), nn.Linear(i, h, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        b, t, h = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (p * cosine + torch.cat([-p.chunk(2, -1)[1], p.chunk(2, -1)[0]], -1) * sine for p in (q, k))
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, h))
        gate, up = self.gate_up(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class PlainLlama(nn.Module):
    cosine: Tensor
    sine: Tensor

    def __init__(self, model: ModelSpec):
        super().__init__()
        h, e = model.hidden, model.hidden // model.heads
        self.embedding, self.head = nn.Embedding(model.vocab_size, h), nn.Linear(h, model.vocab_size, bias=False)
        self.blocks = nn.ModuleList(Block(h, model.intermediate, model.heads) for _ in range(model.layers))
        self.norm = nn.RMSNorm(h, eps=1e-6)
        angle = torch.arange(model.context)[:, None] * 10_000.0 ** (-torch.arange(0, e, 2) / e)
        self.register_buffer("cosine", torch.cat([angle, angle], 1).cos())
        self.register_buffer("sine", torch.cat([angle, angle], 1).sin())

    def forward(self, rows: Tensor) -> Tensor:
        """Sum of the cross-entropies of rows (b, t + 1), nats."""
        x = self.embedding(rows[:, :-1])
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.loss(x, rows[:, 1:].flatten())

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1).float(), targets, reduction="sum")


def stepper(
    model: ModelSpec, rows: Tensor, *, micro_batch: int, precision: Precision, compiled: bool
) -> Callable[[], float]:
    """A function that takes a training step over `rows`, (sequences, context + 1), there."""
    device = rows.device
    with torch.device(device):
        plain = PlainLlama(model).to(torch.bfloat16 if precision == "bf16" else torch.float32)
    if compiled:
        for block in plain.blocks:
            block.compile()
        plain.loss = torch.compile(plain.loss)  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    mixed = precision == "bf16_master"

    def step() -> float:
        optimizer.zero_grad()
        total = torch.zeros((), device=device)
        for part in rows.split(micro_batch):
            with torch.autocast(device.type, torch.bfloat16) if mixed else contextlib.nullcontext():
                loss = plain(part) / (rows.shape[0] * model.context)
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        return total.item()

    return step
