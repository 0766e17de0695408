"""Losses of single tokens, added up by document, with the standard error of their mean.

Tokens of one document resemble one another, so they are not independent measurements; documents
nearly are, and groups of documents (one author, one repository) where documents are not. The error
is that of a ratio of two sums over such clusters (the usual linearized one, Cochran, Sampling
Techniques, section 6.4): sqrt(n / (n - 1) * sum_i (L_i - m T_i)^2) / sum_i T_i for m = sum L / sum
T. It says how far the loss would move with other documents, not with another seed.

Two ways to read text, and they give two numbers. `stream` is how raysparse trains and validates:
documents one after another, cut into contexts, so some tokens see the end of another document.
`documents` scores each by itself, in windows that do not overlap, the first token from the
separator, the last window filled up with what stands before it: what other evaluators do (lm-eval's
`loglikelihood_rolling`), so that numbers compare. Left out: windows that overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from raysparse import memory
from raysparse.model.llama import Llama

SEQUENCES_AT_ONCE = 32


@dataclass(frozen=True)
class Scores:
    """Of each document: the sum of its tokens' losses in nats, its tokens, its UTF-8 bytes, its
    group ("" where there are none), and how it begins.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    groups: tuple[str, ...]
    begins: tuple[str, ...] = ()

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum() / self.bytes.sum() / math.log(2))

    @property
    def has_groups(self) -> bool:
        return 1 < len(set(self.groups)) < len(self.groups)

    @property
    def error(self) -> float:
        """Standard error of the loss, over groups where there are any, else over documents; nan for
        one.
        """
        return ratio_error(*self._clusters(self.tokens))

    @property
    def bits_per_byte_error(self) -> float:
        return ratio_error(*self._clusters(self.bytes)) / math.log(2)

    def _clusters(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not self.has_groups:
            return self.nats, size
        _, number = np.unique(self.groups, return_inverse=True)
        return np.bincount(number, self.nats), np.bincount(number, size)

    def of_group(self, group: str) -> Scores:
        here = np.array([g == group for g in self.groups])
        return Scores(self.nats[here], self.tokens[here], self.bytes[here], ("",) * int(here.sum()))


def ratio_error(nats: np.ndarray, size: np.ndarray) -> float:
    """Standard error of sum(nats) / sum(size) over clusters; nan for fewer than two."""
    n = len(nats)
    if n < 2:
        return math.nan
    rest = nats - nats.sum() / size.sum() * size
    return float(math.sqrt(n / (n - 1) * (rest**2).sum()) / size.sum())


@torch.no_grad()
def token_scores(model: Llama, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(losses in nats, float32; whether the target is the likeliest token) of targets (b, t) behind
    inputs (b, t). A portion of the tokens at a time, as in training.
    """
    hidden = model.hidden(inputs).flatten(0, 1)
    head, flat = model.head.to(hidden.dtype), targets.flatten()
    nats, right = torch.empty(len(flat), device=flat.device), torch.empty_like(flat, dtype=torch.bool)
    size = max(1, memory.logit_elements(len(flat), len(head), head.shape[1], head.device.type) // len(head))
    for start in range(0, len(flat), size):
        part = slice(start, start + size)
        logits = (hidden[part] @ head.t()).float()
        nats[part] = F.cross_entropy(logits, flat[part], reduction="none")
        right[part] = logits.argmax(dim=1) == flat[part]
    return nats.view(targets.shape), right.view(targets.shape)


def windows(tokens: np.ndarray, separator: int, context: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(inputs, targets) that score every token of a document once; at most `context` inputs, of
    which the last as many as there are targets are scored.
    """
    tokens = tokens.astype(np.int64)
    whole = np.concatenate([[separator], tokens])
    for start in range(0, len(tokens), context):
        stop = min(start + context, len(tokens))
        first = max(0, stop - context) if start else 0
        yield whole[first:stop], tokens[start:stop]


def score_windows(model: Llama, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """(nats, whether all targets were the likeliest) of each (inputs, targets), int64: the targets
    are the last of what is predicted behind the inputs. Windows of one length share a batch without
    padding.
    """
    nats, right = np.zeros(len(pairs)), np.ones(len(pairs), dtype=bool)
    waiting = sorted(range(len(pairs)), key=lambda n: len(pairs[n][0]))
    for length, same in itertools.groupby(waiting, key=lambda n: len(pairs[n][0])):
        numbers = list(same)
        for start in range(0, len(numbers), SEQUENCES_AT_ONCE):
            batch = numbers[start : start + SEQUENCES_AT_ONCE]
            inputs = torch.from_numpy(np.stack([pairs[n][0] for n in batch]))
            targets = torch.zeros_like(inputs)
            for row, n in enumerate(batch):
                targets[row, length - len(pairs[n][1]) :] = torch.from_numpy(pairs[n][1])
            device = model.embedding.device
            losses, hits = (found.cpu() for found in token_scores(model, inputs.to(device), targets.to(device)))
            for row, n in enumerate(batch):
                scored = slice(length - len(pairs[n][1]), length)
                nats[n] = float(losses[row, scored].double().sum())
                right[n] = bool(hits[row, scored].all())
    return nats, right


def score_documents(model: Llama, documents: Sequence[np.ndarray], separator: int, context: int) -> np.ndarray:
    """The loss of each document by itself, nats: float64 (documents,). An empty one costs
    nothing.
    """
    found = [(n, window) for n, tokens in enumerate(documents) for window in windows(tokens, separator, context)]
    nats, _ = score_windows(model, [window for _, window in found])
    return np.bincount([n for n, _ in found], nats, minlength=len(documents))
