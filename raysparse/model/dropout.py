"""Dropout on the residual branches: what is dropped is a function of where it stands, not the next
draw of a generator.

A branch (the output of attention, or of the MLP) loses each of its numbers with a probability
before it is added to the stream (arXiv 1706.03762, section 5.4), and what is left is scaled up. The
bits come from Philox, keyed by (seed, step, layer, place) and counted by (row of the global batch,
position, channel). So a resumed run, any micro-batch and any number of ranks drop the same, and a
backward pass that computes activations again would too.

Two numbers share a random word, so a probability is a multiple of 2^-16; the scale is that of the
multiple that is used. What the backward pass keeps is a byte a number. Left out: dropout of
attention weights and embeddings, and a kernel of its own for a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.kernels import philox
from raysparse.spec import TrialSpec

DROPOUT = 7  # what a Philox stream is for
ATTENTION, MLP = 0, 1  # places in a layer
LEVELS = 1 << 16
PORTION = 1 << 22  # random words made at a time


@dataclass(frozen=True)
class Dropout:
    """What one training pass drops.

    seed: of the run; step: 1-based; first_row: where the pass's first sequence stands in the global
    batch of the step.
    """

    probability: float
    seed: int
    step: int
    first_row: int

    @classmethod
    def of(cls, spec: TrialSpec, *, step: int, first_row: int) -> Dropout | None:
        """That of a trial; None where it drops nothing."""
        probability = spec.optimizer.dropout
        return cls(probability, spec.seed, step, first_row) if probability else None

    def __call__(self, branch: Tensor, layer: int, place: int) -> Tensor:
        """The branch (b, t, h) with numbers dropped and the others scaled."""
        dropped = self.dropped(branch.shape, layer, place, branch.device)
        return branch.masked_fill(dropped, 0.0) * (LEVELS / (LEVELS - self._level))

    def dropped(self, shape: tuple[int, ...], layer: int, place: int, device: torch.device | str = "cpu") -> Tensor:
        """Which numbers of a branch of shape (b, t, h), t * h even, are dropped, bool."""
        rows, *inner = shape
        words = inner[0] * inner[1] // 2  # of a row
        found = torch.empty(rows * words, 2, dtype=torch.bool, device=device)
        key, first = philox.stream(self.seed, self.step, layer, place, DROPOUT), self.first_row * words
        for start in range(0, len(found), PORTION):
            stop = min(start + PORTION, len(found))
            word = philox.words(key, first + start, first + stop, device=device)
            torch.lt(word & (LEVELS - 1), self._level, out=found[start:stop, 0])
            torch.lt(word >> 16, self._level, out=found[start:stop, 1])
        return found.view(shape)

    @property
    def _level(self) -> int:
        return min(round(self.probability * LEVELS), LEVELS - 1)
