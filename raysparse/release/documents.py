"""Texts to evaluate on: the documents of any corpus, whole, and the held-out passages of a store.

Training cuts documents into passages; an evaluation wants them as they are. Where files hold
several documents each, the file is their group. Left out: near-duplicates of what was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from raysparse.data.corpus import corpus_files, open_corpus, read_documents
from raysparse.data.store import TokenStore


class Document(NamedTuple):
    """A text and the group it belongs to, "" where there is none."""

    text: str
    group: str = ""


def documents_of(name: str, most: int = 0) -> list[Document]:
    """The documents of a corpus that are not blank, each text once, in the order of their hashes
    (of a stream: as they come); the first `most` of them, or all for 0.

    Raises ValueError when there is no such corpus or no document in it.
    """
    found: dict[str, Document] = {}
    for document in _read(name):
        if document.text.strip():
            found.setdefault(document.text, document)
        if name.startswith("hf:") and len(found) == most > 0:
            break
    if not found:
        raise ValueError(f"corpus {name!r} is empty: none of its documents is text that is not blank")
    texts = list(found) if name.startswith("hf:") else sorted(found, key=_key)
    return [found[text] for text in texts[: most or None]]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(name: str) -> Iterator[Document]:
    if name.startswith("hf:"):
        yield from (Document(passage.text) for passage in open_corpus(name).passages())
        return
    for path in corpus_files(name):
        try:
            texts = list(read_documents(path))
        except (UnicodeDecodeError, SyntaxError):  # not text: left out, as in training
            continue
        group = str(path) if path.suffix in (".jsonl", ".parquet") else ""
        yield from (Document(text, group) for text in texts)


def held_out_passages(store: TokenStore, tokens: int) -> list[Document]:
    """The passages among the first `tokens` held-out tokens of a store, as text; whole ones, unless
    there is none.
    """
    parts = passages(store.tokens("validation", 0, min(tokens, store.validation_tokens)), store.manifest.separator)
    tokenizer = store.tokenizer()
    texts = [tokenizer.decode(part) for part in parts[:-1] or parts]
    return [Document(text) for text in texts if text]


def passages(tokens: np.ndarray, separator: int) -> Sequence[np.ndarray]:
    """Tokens cut behind every separator; the last part has none, and may be empty."""
    return np.split(tokens, np.flatnonzero(tokens == separator) + 1)
