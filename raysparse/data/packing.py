"""Packing: passages of text become token shards, one after the other, with a separator behind each
and no padding.

Each split stops at the first passage that gives it the tokens asked for, whatever the other split
still needs. So what is stored is a prefix of the split's stream that depends on its own target
alone, and asking for more of one never moves a token of the other. Shards are named by their
content and belong to nobody until a manifest names them; when a preparation fails,
`withdrawn_on_failure` deletes those it wrote.

Left out: where passages come from (`corpus`), and publishing the manifest (`store.prepare`).
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from raysparse.data.manifest import SPLITS, Manifest, Shard, Split
from raysparse.data.passage import Corpus, Passage
from raysparse.data.tokenizer import Tokenizer, token_dtype
from raysparse.data.unfinished import Unfinished
from raysparse.files import Folder, checksum

SHARD_TOKENS = 2**24  # 32 MiB of uint16
# Of text encoded at once: enough to keep all cores busy, little enough to stop near the target.
BATCH_CHARACTERS = 2**20
ENCODERS = 2  # batches in work: the library uses all cores for one, but one alone while its ids become an array

logger = logging.getLogger(__name__)


@contextmanager
def withdrawn_on_failure(folder: Folder) -> Iterator[list[str]]:
    """A list for the names of shards that the body writes; they are deleted when it fails, unless a
    manifest names them by then.
    """
    written: list[str] = []
    try:
        yield written
    except BaseException:
        published = Manifest.read(folder)
        for name in set(written) - (published.shard_names if published else set()):
            folder.delete(name)
        raise


class _SplitWriter:
    """Packs the passages of one split into shards until it has `target` tokens; the last passage is
    stored whole.
    """

    def __init__(
        self, folder: Folder, name: str, tokenizer: Tokenizer, target: int, shard_tokens: int, written: list[str]
    ):
        self._folder, self._name, self._target, self._shard_tokens, self._written = (
            folder,
            name,
            target,
            shard_tokens,
            written,
        )
        self._separator = np.array([tokenizer.separator], dtype=token_dtype(tokenizer.vocab_size))
        self._pending: list[np.ndarray] = []
        self._shards: list[Shard] = []
        self._passages = self._bytes = self._tokens = self._stored = 0
        self._complete = True

    @property
    def is_full(self) -> bool:
        return self._tokens >= self._target

    @property
    def shards(self) -> int:
        return len(self._shards)

    def kept(self) -> tuple[dict[str, Any], np.ndarray]:
        """What `restore` needs, and the tokens that no shard holds."""
        counts = {"passages": self._passages, "bytes": self._bytes, "tokens": self._tokens, "stored": self._stored}
        state = {**counts, "complete": self._complete, "shards": [dataclasses.asdict(shard) for shard in self._shards]}
        return state, np.concatenate([*self._pending, self._separator[:0]])

    def restore(self, state: dict[str, Any], pending: np.ndarray) -> None:
        self._passages, self._bytes, self._tokens = state["passages"], state["bytes"], state["tokens"]
        self._stored, self._complete = state["stored"], state["complete"]
        self._shards = [Shard(**shard) for shard in state["shards"]]
        self._pending = [pending]
        self._written += [shard.name for shard in self._shards]

    def takes_another(self) -> bool:
        """Whether one more passage is taken, told that there may be one; if it is not, the split is
        left incomplete.
        """
        taken = self._tokens < self._target
        self._complete = self._complete and taken
        return taken

    def add(self, text: str, tokens: np.ndarray) -> None:
        self._pending += [tokens, self._separator]
        self._passages += 1
        self._bytes += len(text.encode())
        self._tokens += len(tokens) + 1
        if self._tokens - self._stored >= self._shard_tokens:
            self._store(np.concatenate(self._pending))

    def _store(self, tokens: np.ndarray, last: bool = False) -> None:
        whole = len(tokens) if last else len(tokens) - len(tokens) % self._shard_tokens
        for start in range(0, whole, self._shard_tokens):
            part = tokens[start : min(start + self._shard_tokens, whole)]
            data = memoryview(_shard_file(part))
            sha256 = checksum(data)
            name = f"{self._name}-{len(self._shards):05d}-{sha256[:12]}.arrow"
            self._written.append(name)
            self._folder.write(name, data)
            self._shards.append(Shard(name, len(part), sha256))
            logger.info("stored %s: %d tokens", name, len(part))
        self._pending = [tokens[whole:]]
        self._stored += whole

    @property
    def tokens(self) -> int:
        return self._tokens

    def finish(self) -> Split:
        if self._tokens > self._stored:
            self._store(np.concatenate(self._pending), last=True)
        return Split(self._passages, self._tokens, self._bytes, self._complete, tuple(self._shards))


def _shard_file(tokens: np.ndarray) -> pa.Buffer:
    """An Arrow IPC file of one record batch with one column, `tokens`."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.array(tokens)], names=["tokens"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def write_shards(
    folder: Folder,
    source: Corpus,
    tokenizer: Tokenizer,
    name: str,
    targets: tuple[int, int],
    written: list[str],
    shard_tokens: int = SHARD_TOKENS,
    told: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write shards with at least `targets` tokens (train, validation), or all that the corpus has;
    their names go to `written`. Goes on where a killed call of the same left off.

    Returns the manifest, not published yet; `name` is the tokenizer's. `told` hears how far it is.
    """
    asked = {
        "corpus": source.fingerprint, "tokenizer": tokenizer.fingerprint, "targets": list(targets),
        "shard_tokens": shard_tokens, "policy": list(source.policy),
    }  # fmt: skip
    writers = {
        split: _SplitWriter(folder, split, tokenizer, target, shard_tokens, written)
        for split, target in zip(SPLITS, targets, strict=True)
    }
    begun = Unfinished.read(folder, asked)
    if begun is not None:
        for split, (state, pending) in begun.splits.items():
            writers[split].restore(state, pending)
        logger.info("going on after %d batches", begun.batches)
    _pack(folder, source, tokenizer, writers, asked, begun.batches if begun is not None else 0, written, told)
    return Manifest(
        corpus=source.name,
        corpus_fingerprint=source.fingerprint,
        reading=source.reading.identity(),
        corpus_facts=source.facts,
        tokenizer=name,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        separator=tokenizer.separator,
        train=writers["train"].finish(),
        validation=writers["validation"].finish(),
        left_out=source.tally.first,
        split_rule=source.policy.rule,
        near_duplicates=source.policy.near,
    )


def _pack(
    folder: Folder, source: Corpus, tokenizer: Tokenizer, writers: dict[str, _SplitWriter], asked: dict[str, Any],
    done: int, written: list[str], told: Callable[[str], None],
) -> None:  # fmt: skip
    """Fill the writers with the passages of a corpus, from batch `done` on."""
    train, validation = writers["train"], writers["validation"]
    stored = train.shards
    for number, (batch, encoded) in enumerate(_encoded(source, tokenizer, writers, done), start=done + 1):
        for passage, tokens in zip(batch, encoded, strict=True):
            writer = validation if passage.held_out else train
            if writer.takes_another():
                writer.add(passage.text, tokens)
        told(f"{train.tokens + validation.tokens:,} tokens")
        if train.shards > stored:
            stored = train.shards
            written += Unfinished(number, {split: writer.kept() for split, writer in writers.items()}).save(
                folder, asked
            )
        if not any([train.takes_another(), validation.takes_another()]):
            break


def _encoded(
    source: Corpus, tokenizer: Tokenizer, writers: dict[str, _SplitWriter], done: int
) -> Iterator[tuple[list[Passage], list[np.ndarray]]]:
    """Batches of passages with their tokens, in order, the next ones being encoded while one is
    packed; passages of a split that was full when they were handed in have none.
    """
    nothing = np.empty(0, dtype=token_dtype(tokenizer.vocab_size))

    def encode(batch: list[Passage], full: set[bool]) -> tuple[list[Passage], list[np.ndarray]]:
        ids = iter(tokenizer.encode_batch([passage.text for passage in batch if passage.held_out not in full]))
        return batch, [nothing if passage.held_out in full else next(ids) for passage in batch]

    with ThreadPoolExecutor(ENCODERS) as pool:
        waiting = deque[Future[tuple[list[Passage], list[np.ndarray]]]]()
        for batch in islice(_batches(source.passages()), done, None):
            full = {side for side, name in ((False, "train"), (True, "validation")) if writers[name].is_full}
            waiting.append(pool.submit(encode, batch, full))
            if len(waiting) > ENCODERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(passages: Iterable[Passage]) -> Iterator[list[Passage]]:
    """Passages in lists of about BATCH_CHARACTERS."""
    batch: list[Passage] = []
    characters = 0
    for passage in passages:
        batch.append(passage)
        characters += len(passage.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
