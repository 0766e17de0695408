"""A token store: the tokens of a corpus in memory-mapped Arrow shards, prepared once and opened by
every worker of every trial.

One stream of tokens per split, in an order that does not depend on how many are asked for.
Preparing more tokens later makes the old ones a prefix of the new ones (and this is checked), so
every smaller token budget is nested in every larger one. Shards are written first and the manifest
last: a preparation that was killed left no store, and is done again.

Left out: how shards are filled (`packing`), which tokens a trial reads at which step (`order`), and
deleting the last, partial shard that an extension has replaced: somebody may be reading it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysparse import faults
from raysparse.data.corpus import open_corpus
from raysparse.data.manifest import MANIFEST, SPLITS, TOKENIZER, Manifest, Shard
from raysparse.data.packing import SHARD_TOKENS, withdrawn_on_failure, write_shards
from raysparse.data.passage import Corpus
from raysparse.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer, make_tokenizer
from raysparse.data.unfinished import Unfinished
from raysparse.files import Folder, checksum, default_cache, write_file_atomically
from raysparse.reading import ReadingSpec
from raysparse.record import require
from raysparse.spec import DataSpec

COMPARED_TOKENS = 2**20  # at once: 8 MiB as int64
REMAKE = "delete the folder and run again to have it made anew"

logger = logging.getLogger(__name__)


def prepare(
    folder: Folder,
    corpus: str,
    tokenizer: str,
    *,
    train_tokens: int,
    validation_tokens: int,
    reading: ReadingSpec | None = None,
    known: str = "",
    cache: Path | None = None,
    shard_tokens: int = SHARD_TOKENS,
    told: Callable[[str], None] = lambda line: None,
) -> TokenStore:
    """The token store in `folder`, made or extended so that it holds this many tokens; reused when
    it does already.

    told: hears how many tokens are made. known: the fingerprint of the corpus that earlier results
    were trained on, where there are any. Safe to call from several processes at once, and again
    after it was killed, when it goes on. Raises ValueError
    when the corpus or tokenizer is unknown, differs from the stored one, or is too small;
    ConnectionError when a dataset cannot be reached.
    """
    require(train_tokens >= 1, "train_tokens", train_tokens, "at least 1")
    require(validation_tokens >= 1, "validation_tokens", validation_tokens, "at least 1")
    stored = Manifest.read(folder)
    reading = reading or ReadingSpec()
    if stored is not None:  # before a large corpus is read
        stored.check_source(corpus, tokenizer, reading, folder.uri)
    source = open_corpus(corpus, reading, stored.policy if stored is not None else None)
    targets = (train_tokens, validation_tokens)
    if known and source.finite and source.fingerprint != known:
        raise _changed(source, known, "the results in the run folder were trained")
    if stored is not None:
        enough = stored.holds(*targets)
        if source.finite or not enough:  # a stream that has enough is not asked: it may be out of reach
            _check_unchanged(source, stored, folder)
        if enough:
            return TokenStore.open(folder, cache)
        stored.check_tokens(*targets, growing=True)
        targets = (max(train_tokens, stored.train.tokens), max(validation_tokens, stored.validation.tokens))
    encoder = _tokenizer_for(folder, stored, source, tokenizer)
    folder.discard_temporaries()
    with withdrawn_on_failure(folder.writable()) as written:
        made = write_shards(folder, source, encoder, tokenizer, targets, written, shard_tokens, told)
        made.check_tokens(train_tokens, validation_tokens)
        store = TokenStore(folder, made, cache)
        if stored is not None:
            _check_prefix(TokenStore(folder, stored, cache), store)
        _publish(folder, made, encoder)
        Unfinished.forget(folder)
    logger.info("prepared %s", store.describe())
    return store


def _check_unchanged(source: Corpus, stored: Manifest, folder: Folder) -> None:
    if source.fingerprint != stored.corpus_fingerprint:
        raise _changed(source, stored.corpus_fingerprint, f"the token store in {folder.uri} was made")


def _changed(source: Corpus, before: str, what: str) -> ValueError:
    return ValueError(
        f"corpus {source.name!r} has changed since {what} (fingerprint {before[:8]} then, {source.fingerprint[:8]} "
        f"now), and results of both would not compare; use another --storage for the new one, or put the old one back"
    )


def _publish(folder: Folder, made: Manifest, tokenizer: Tokenizer) -> None:
    """Write the manifest, unless another process has published a store meanwhile that holds as much
    of the same.
    """
    other = Manifest.read(folder)
    if other is not None and (other.corpus_fingerprint, other.tokenizer_fingerprint) == (
        made.corpus_fingerprint, made.tokenizer_fingerprint
    ) and other.holds(made.train.tokens, made.validation.tokens):  # fmt: skip
        return
    if (text := tokenizer.to_json()) is not None:
        folder.write(TOKENIZER, text.encode())
    faults.point("tokens.shards")
    made.write(folder)
    faults.point("tokens.published")


def _tokenizer_for(folder: Folder, stored: Manifest | None, source: Corpus, name: str) -> Tokenizer:
    """The tokenizer that the store was begun with, or a new one."""
    if stored is not None:
        return _stored_tokenizer(folder, stored)
    texts = (passage.text for passage in source.passages() if not passage.held_out)
    return make_tokenizer(name, texts, source.reading.separator_token)


def _stored_tokenizer(folder: Folder, stored: Manifest) -> Tokenizer:
    if stored.tokenizer == "bytes":
        return ByteTokenizer()
    data = folder.read(TOKENIZER) if folder.exists(TOKENIZER) else b""
    if checksum(data) != stored.tokenizer_fingerprint:
        raise ValueError(
            f"{folder.at(TOKENIZER)} is damaged or missing (its hash differs from the manifest's); {REMAKE}"
        )
    return load_tokenizer(stored.tokenizer, data.decode(), stored.separator)


def _check_prefix(old: TokenStore, new: TokenStore) -> None:
    """Raise ValueError unless the tokens of `old` begin those of `new`: a stream may have changed
    under its name.
    """
    for split in SPLITS:
        there, here = getattr(old.manifest, split).tokens, getattr(new.manifest, split).tokens
        for start in range(0, there, COMPARED_TOKENS):
            stop = min(start + COMPARED_TOKENS, there)
            if stop > here or not np.array_equal(old.tokens(split, start, stop), new.tokens(split, start, stop)):
                raise ValueError(
                    f"corpus {old.manifest.corpus!r} no longer begins with the tokens stored in {old.folder.uri}; "
                    f"use another folder, or delete this one to begin anew"
                )


class TokenStore:
    """Read-only token streams, "train" and "validation". Opened once per process; the shards are
    mapped, not read into memory.

    Raises ValueError naming the file when a shard is missing or damaged.
    """

    def __init__(self, folder: Folder, manifest: Manifest, cache: Path | None = None):
        self.folder = folder
        self.manifest = manifest
        place = None if folder.is_local else cache or default_cache()
        self._shards = {
            split: [_map_shard(folder, shard, place) for shard in getattr(manifest, split).shards] for split in SPLITS
        }
        self._starts = {split: np.cumsum([0, *map(len, shards)]) for split, shards in self._shards.items()}

    @classmethod
    def open(cls, folder: Folder, cache: Path | None = None) -> TokenStore:
        """The store in `folder`, every shard checked against its checksum.

        A remote store is copied to `cache` first (default: the user's cache folder), one file per
        shard, named by content. Raises ValueError when there is no store, or when a shard or the
        manifest is damaged.
        """
        manifest = Manifest.read(folder)
        if manifest is None:
            raise ValueError(
                f"there is no token store in {folder.uri} (no {MANIFEST}); copy it there, where a run was copied "
                f"without it, or prepare one with raysparse.data.store.prepare"
            )
        return cls(folder, manifest, cache)

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def corpus_fingerprint(self) -> str:
        return self.manifest.corpus_fingerprint

    @property
    def train_tokens(self) -> int:
        return self.manifest.train.tokens

    @property
    def validation_tokens(self) -> int:
        return self.manifest.validation.tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of held-out text per held-out token, separators counted as tokens: bits per
        byte is nats / ln 2 / this.
        """
        return self.manifest.validation.bytes / self.manifest.validation.tokens

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens, from the store itself. Raises ValueError when its
        file is damaged.
        """
        return _stored_tokenizer(self.folder, self.manifest)

    def shards(self, split: str) -> list[np.ndarray]:
        """The token ids of each shard, [tokens] of uint16 or uint32, mapped from disk and
        read-only.
        """
        return self._shards[split]

    def tokens(self, split: str, start: int, stop: int) -> np.ndarray:
        """Token ids start..stop of a split's stream, int64 [stop - start]."""
        return self.take(split, np.arange(start, stop))

    def take(self, split: str, positions: np.ndarray) -> np.ndarray:
        """Token ids at `positions` of a split's stream, int64 of the same shape. Raises IndexError
        beyond the stream's end.
        """
        starts = self._starts[split]
        if positions.size and (positions.min() < 0 or positions.max() >= starts[-1]):
            raise IndexError(
                f"positions {positions.min()}..{positions.max()} are not all among the {starts[-1]} {split} tokens"
            )
        found = np.empty(positions.shape, dtype=np.int64)
        numbers = np.searchsorted(starts, positions, side="right") - 1
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._shards[split][number][positions[here] - starts[number]]
        return found

    def check(self, spec: DataSpec, vocab_size: int) -> None:
        """Raise ValueError when this is not the data of `spec`, holds too few tokens, or has
        another vocabulary than the model.
        """
        self.manifest.check_source(spec.corpus, spec.tokenizer, spec.reading, self.folder.uri)
        if vocab_size != self.vocab_size:
            raise ValueError(
                f"model.vocab_size is {vocab_size}, but the token store in {self.folder.uri} was made with tokenizer "
                f"{self.manifest.tokenizer!r} of {self.vocab_size} ids; set model.vocab_size to {self.vocab_size}"
            )
        self.manifest.check_tokens(spec.unique_tokens, spec.validation_tokens)

    def describe(self) -> str:
        """One line for people."""
        m = self.manifest
        return (
            f"{m.corpus} [{m.corpus_fingerprint[:8]}] as {m.tokenizer} ({m.vocab_size} ids): {m.train.tokens:,} "
            f"training tokens, "
            f"{m.validation.tokens:,} held out, {self.bytes_per_token:.2f} bytes per token"
        )


def _map_shard(folder: Folder, shard: Shard, cache: Path | None) -> np.ndarray:
    """The shard's tokens, mapped from disk; fetched to `cache` first when that is given and does
    not have it.
    """
    path = (cache or folder.local_path) / shard.name
    if cache is not None and _file_checksum(path) != shard.sha256 and folder.exists(shard.name):
        write_file_atomically(path, folder.read(shard.name))
    found = _file_checksum(path)
    if found != shard.sha256:
        state = "missing" if found is None else f"damaged (its checksum is {found[:12]}, expected {shard.sha256[:12]})"
        raise ValueError(f"token shard {folder.at(shard.name)} is {state}; {REMAKE}")
    with pa.memory_map(str(path)) as mapped:
        column = pa.ipc.open_file(mapped).get_batch(0).column("tokens")
    tokens: np.ndarray = column.to_numpy(zero_copy_only=True)
    return tokens


def _file_checksum(path: Path) -> str | None:
    if not path.exists():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
