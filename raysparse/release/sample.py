"""Text from a model, a token at a time, dense and sparse alike.

A token is drawn from a number of Philox, keyed by the seed and counted by the token's place, so a
text is a function of (model, prompt, settings) with and without a cache, up to the rounding of the
logits. A model knows as many positions as its context has: when they are full, all but the newest
half is forgotten and that half is read again, so a token is drawn behind half a context or more,
and reading again costs one pass in half a context of tokens. Without a cache the same tokens are
seen and all of them are read for each: the plain way, which tests compare with.

Left out: several texts at once, beams, penalties for repeating.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysparse.data.tokenizer import Tokenizer
from raysparse.model.cache import Cache
from raysparse.model.llama import Llama
from raysparse.record import Record, require
from raysparse.release.opened import OpenedModel
from raysparse.spec import ModelSpec

REPLACEMENT = "\ufffd"  # what half a character is decoded as
LONGEST_CHARACTER = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class SamplingSpec(Record):
    """How the next token is drawn. temperature 0 takes the likeliest; top_k 0 and top_p 1 leave all
    tokens in.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        is_number = math.isfinite(self.temperature) and self.temperature >= 0
        require(is_number, "--temperature", self.temperature, "0 (the likeliest token) or a positive number")
        require(self.top_k >= 0, "--top-k", self.top_k, "0 (off) or a number of tokens")
        require(0.0 < self.top_p <= 1.0, "--top-p", self.top_p, "a probability in (0, 1]")
        require(0 <= self.seed < 2**63, "--seed", self.seed, "a whole number in [0, 2**63)")


def probabilities(logits: Tensor, sampling: SamplingSpec) -> Tensor:
    """Of every token, float64 (vocabulary,): temperature first, then the k likeliest, then of those
    the fewest that have `top_p` together.
    """
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).double()
    scaled = logits.double() / sampling.temperature
    order = scaled.argsort(descending=True, stable=True)
    kept = order[: sampling.top_k or None]
    found = scaled[kept].softmax(dim=0)
    found = found.masked_fill(found.cumsum(dim=0) - found >= sampling.top_p, 0.0)
    return torch.zeros_like(scaled).index_copy_(0, kept, found / found.sum())


def drawn(probability: Tensor, uniform: float) -> int:
    """The token at a share `uniform` in [0, 1) of the probabilities, one after another."""
    total = probability.cumsum(dim=0)
    place = int(torch.searchsorted(total, uniform * float(total[-1]), right=True))
    return min(place, int(probability.nonzero()[-1]))


class NextToken:
    """Logits of the token behind those that were read."""

    def __init__(self, model: Llama, shape: ModelSpec, *, cached: bool = True):
        self.model, self.shape, self.cached = model, shape, cached
        self._cache: Cache | None = None
        self._first = 0  # the first token that the cache holds

    @torch.no_grad()
    def logits(self, tokens: Sequence[int]) -> Tensor:
        """float32 (vocabulary,); `tokens` begin with those of the call before."""
        first = first_seen(len(tokens), self.shape.context)
        if self.cached and (self._cache is None or first != self._first):
            device = self.model.embedding.device
            self._cache = Cache(self.shape, 1, dtype=self.model.compute_dtype, device=device)
            self._first = first
        start = first + (self._cache.length if self._cache is not None else 0)
        unread = torch.tensor([list(tokens[start:])], device=self.model.embedding.device)
        hidden = self.model.hidden(unread, cache=self._cache)[0, -1]
        return (hidden @ self.model.head.to(hidden.dtype).t()).float()


def first_seen(length: int, context: int) -> int:
    """The first of `length` tokens that the next one is drawn behind."""
    step = max(1, context // 2)
    return step * math.ceil(max(0, length - context) / step)


def generate(
    opened: OpenedModel, prompt: Sequence[int], sampling: SamplingSpec, most: int, *, cached: bool = True
) -> Iterator[int]:
    """Up to `most` tokens behind those of a prompt (one or more); ends where the model ends the
    document.
    """
    separator, tokens = opened.tokenizer.separator, list(prompt)
    reader = NextToken(opened.model, opened.spec.model, cached=cached)
    numbers = np.random.Philox(key=np.array([sampling.seed, 0], dtype=np.uint64))
    for _ in range(most):
        probability = probabilities(reader.logits(tokens).cpu(), sampling)
        token = drawn(probability, (int(numbers.random_raw()) >> 11) * 2.0**-53)
        if token == separator:
            return
        yield token
        tokens.append(token)


def encoded_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The ids of a prompt that begins a document, so a separator stands first. Raises ValueError
    when it holds bytes that are no text, which a terminal hands on as half characters.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"--prompt holds {prompt[error.start]!r} at character {error.start}, which is no UTF-8; give it as UTF-8"
        ) from error
    return [tokenizer.separator, *(int(token) for token in tokenizer.encode_batch([prompt])[0])]


class Spelling:
    """Tokens to text as they come: a character of several tokens waits until it is whole."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]):
        self.tokenizer, self.before, self.pending = tokenizer, list(before), list[int]()

    def add(self, token: int) -> str:
        """What can be said now that this token has come."""
        self.pending.append(token)
        text = self._text()
        if text.endswith(REPLACEMENT) and len(self.pending) < LONGEST_CHARACTER:
            return ""
        self.before, self.pending = [] if text.endswith(REPLACEMENT) else self.pending, []
        return text

    def rest(self) -> str:
        """What is left at the end."""
        return self._text()

    def _text(self) -> str:
        def decoded(tokens: list[int]) -> str:
            return self.tokenizer.decode(np.array(tokens, dtype=np.int64))

        return decoded(self.before + self.pending)[len(decoded(self.before)) :]
