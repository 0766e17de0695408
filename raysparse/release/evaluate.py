"""What a model makes of text: loss, perplexity and bits per byte, by document and by group, with
standard errors; and what it remembers of the text that it was trained on.

Memorisation is seen twice: as the loss on trained against held-out passages, and as exact
continuation: behind the first half of a sequence, how many of the next tokens are just those of the
text when the likeliest token is taken each time. As long as all were right, what was generated *is*
the text, so one pass over the text tells the same as generating (a test does both). Held-out
sequences stand beside it, because boilerplate is continued without having been seen.

Left out: printing (`raysparse/console/release.py`), and extraction with prompts that are not text
of the corpus.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from raysparse.data.order import Batches
from raysparse.data.reader import Document
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec
from raysparse.record import require
from raysparse.release.documents import documents_of, held_out_passages, passages
from raysparse.release.opened import OpenedModel
from raysparse.release.scores import SEQUENCES_AT_ONCE, Scores, score_documents, token_scores

SHORTEST = 4  # tokens continued; each length is twice the one before
BEGINNING = 60  # characters by which a document is known


@dataclass(frozen=True)
class Measured:
    """A loss on some text. bytes_per_token: what bits per byte are counted in."""

    what: str
    scores: Scores
    bytes_per_token: float

    @property
    def perplexity(self) -> float:
        try:
            return math.exp(self.scores.loss)
        except OverflowError:  # of a loss above 709
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        return self.scores.loss / math.log(2) / self.bytes_per_token

    @property
    def bits_per_byte_error(self) -> float:
        return self.scores.error / math.log(2) / self.bytes_per_token


@dataclass(frozen=True)
class Memorised:
    """Trained against held-out text. continued: (tokens, share of the trained sequences whose next
    tokens are all the likeliest, the same of held-out ones); prompt: tokens before them.
    """

    trained: Scores
    held_out: Scores
    prompt: int
    continued: tuple[tuple[int, float, float], ...]

    @property
    def gap(self) -> float:
        """Held-out minus trained loss, nats per token."""
        return self.held_out.loss - self.trained.loss

    @property
    def gap_error(self) -> float:
        return math.hypot(self.held_out.error, self.trained.error)


def held_out(opened: OpenedModel) -> Measured:
    """The validation loss of the trial, by passage: the number of its row."""
    return _held_out(opened, _stream(opened, "validation")[0])


def _held_out(opened: OpenedModel, scores: Scores) -> Measured:
    return Measured(f"{opened.spec.data.corpus}, held out", scores, opened.store.bytes_per_token)


def by_document(opened: OpenedModel, documents: list[Document], what: str) -> Measured:
    """Each document by itself, as other evaluators read (`scores`). Bits per byte are per byte of
    text; separators are not predicted.
    """
    encoded = opened.tokenizer.encode_batch([document.text for document in documents])
    nats = score_documents(opened.model, encoded, opened.tokenizer.separator, opened.spec.model.context)
    tokens, size = np.array([len(ids) for ids in encoded]), np.array([len(d.text.encode()) for d in documents])
    begins = tuple(document.text[:BEGINNING] for document in documents)
    scores = Scores(nats, tokens, size, tuple(document.group for document in documents), begins)
    return Measured(what, scores, float(size.sum() / tokens.sum()))


def held_out_by_document(opened: OpenedModel) -> Measured:
    """The held-out passages of its own store, each by itself."""
    found = held_out_passages(opened.store, opened.spec.data.validation_tokens)
    return by_document(opened, found, f"{opened.spec.data.corpus}, held out")


def on_corpus(
    opened: OpenedModel, corpus: str, most: int = 0, reading: ReadingSpec | None = None, tally: Tally | None = None
) -> Measured:
    """The documents of any corpus, as `documents.documents_of` reads them."""
    require(most >= 0, "--documents", most, "0 (all) or more")
    return by_document(opened, documents_of(corpus, most, reading, tally), corpus)


def own_text(opened: OpenedModel) -> tuple[Measured, Memorised]:
    """The held-out loss, and what the model remembers of the text that it was trained on."""
    trained, right = _stream(opened, "train")
    unseen, right_unseen = _stream(opened, "validation")
    context = opened.spec.model.context
    prompt = context // 2
    reach = [_reach(part[:, prompt:]) for part in (right, right_unseen)]
    lengths = [n for n in (SHORTEST << k for k in range(32)) if n <= context - prompt]
    continued = tuple((n, float((reach[0] >= n).mean()), float((reach[1] >= n).mean())) for n in lengths)
    return _held_out(opened, unseen), Memorised(trained, unseen, prompt, continued)


def _reach(right: np.ndarray) -> np.ndarray:
    """How many of the first columns of each row are all true, bool (rows, columns) -> (rows,)."""
    found: np.ndarray = np.cumprod(right, axis=1).sum(axis=1)
    return found


def _stream(opened: OpenedModel, split: str) -> tuple[Scores, np.ndarray]:
    """The trial's own sequences of a split as training reads them: scores by passage, and whether
    each target was the likeliest token, bool (sequences, context).
    """
    nats, right, targets = _read(opened, split)
    return _by_passage(opened, nats, targets), right


def stream_losses(opened: OpenedModel) -> tuple[np.ndarray, Callable[[np.ndarray], Scores]]:
    """Losses of all held-out targets, float64 (sequences, context), and what adds such losses up by
    passage.
    """
    nats, _, targets = _read(opened, "validation")
    return nats, lambda losses: _by_passage(opened, losses, targets)


def _read(opened: OpenedModel, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, whether they were the likeliest, and the targets themselves, (sequences, context)."""
    batches = Batches(opened.store, opened.spec)
    total, read = (
        (batches.unique_sequences, batches.unique)
        if split == "train"
        else (batches.validation_sequences, batches.validation)
    )
    nats, right, targets = [], [], []
    for first in range(0, total, SEQUENCES_AT_ONCE):
        rows = torch.from_numpy(read(first, min(first + SEQUENCES_AT_ONCE, total))).to(opened.device)
        losses, hits = token_scores(opened.model, rows[:, :-1], rows[:, 1:])
        nats.append(losses.double().cpu().numpy())
        right.append(hits.cpu().numpy())
        targets.append(rows[:, 1:].cpu().numpy())
    return np.concatenate(nats), np.concatenate(right), np.concatenate(targets)


def _by_passage(opened: OpenedModel, nats: np.ndarray, targets: np.ndarray) -> Scores:
    """Sums over the passages that the targets of consecutive sequences make up; a separator counts
    to the passage that it ends.
    """
    parts = [part for part in passages(targets.ravel(), opened.tokenizer.separator) if len(part)]
    tokens = np.array([len(part) for part in parts])
    sums = np.add.reduceat(nats.ravel(), np.cumsum(tokens) - tokens)
    texts = [opened.tokenizer.decode(part) for part in parts]
    size, begins = np.array([len(text.encode()) for text in texts]), tuple(text[:BEGINNING] for text in texts)
    return Scores(sums, tokens, size, ("",) * len(parts), begins)
