"""Keys and values of what was read already, so that one more token costs one token's work.

A cache holds at most `context` positions, as many as the model was trained on: a model knows no
position beyond them. Keys are kept as they were turned, so a cache can grow and be dropped, but its
beginning cannot be forgotten while the rest stays. Left out: what to do when it is full
(`raysparse/release/sample.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from raysparse.spec import ModelSpec


class Cache:
    """Of `rows` sequences of one length, empty at first. Raises ValueError beyond the context."""

    def __init__(self, model: ModelSpec, rows: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"):
        shape = (model.layers, rows, model.heads, model.context, model.hidden // model.heads)
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self.context, self.length = model.context, 0

    def places(self, tokens: int) -> slice:
        """Positions of the next `tokens`."""
        if self.length + tokens > self.context:
            raise ValueError(
                f"{self.length} positions are read and {tokens} more asked for, but the context is {self.context}"
            )
        return slice(self.length, self.length + tokens)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add what a layer made of the next positions, (rows, heads, t, e); all it has seen comes
        back.
        """
        here = self.places(keys.shape[2])
        self.keys[layer, :, :, here], self.values[layer, :, :, here] = keys, values
        return self.keys[layer, :, :, : here.stop], self.values[layer, :, :, : here.stop]

    def visible(self, tokens: int) -> Tensor:
        """Which positions each of the next `tokens` may look at, bool (tokens, length + tokens)."""
        seen = self.length + tokens
        return torch.ones(tokens, seen, dtype=torch.bool, device=self.keys.device).tril(self.length)
