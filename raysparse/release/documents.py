"""Texts to evaluate on: the documents of any corpus, whole, and the held-out passages of a store.

Training cuts documents into passages; an evaluation wants them as they are. Where files hold
several documents each and no field says another group, the file is their group. Left out:
near-duplicates of what was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from raysparse.data import forms, places
from raysparse.data.corpus import open_corpus
from raysparse.data.reader import Document
from raysparse.data.store import TokenStore
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec


def documents_of(name: str, most: int = 0, reading: ReadingSpec | None = None) -> list[Document]:
    """The documents of a corpus that are not blank, each text once, in the order of their hashes
    (of a stream: as they come); the first `most` of them, or all for 0. reading: which fields and
    which encoding.

    Raises ValueError when there is no such corpus or no document in it.
    """
    found: dict[str, Document] = {}
    for document in _read(name, reading or ReadingSpec()):
        found.setdefault(document.text, document)
        if name.startswith("hf:") and len(found) == most > 0:
            break
    if not found:
        raise ValueError(f"corpus {name!r} is empty: none of its documents is text that is not blank")
    texts = list(found) if name.startswith("hf:") else sorted(found, key=_key)
    return [found[text] for text in texts[: most or None]]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(name: str, reading: ReadingSpec) -> Iterator[Document]:
    if name.startswith("hf:"):
        yield from (Document(passage.text) for passage in open_corpus(name, reading).passages())
        return
    tally = Tally()
    for path in places.files_of(name, tally):
        found = list(forms.documents_of(path, reading, tally))
        group = str(path) if len(found) > 1 else ""
        yield from (Document(text, own or group) for text, own in found)


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
