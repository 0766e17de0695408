"""Texts to evaluate on: the documents of any corpus, whole, and the held-out passages of a store.

Training cuts documents into passages; an evaluation wants them as they are. Their group is that of
the group field, else, where files hold several documents each, the file. Left out: near-duplicates
of what was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from raysparse.data import places
from raysparse.data.forms import documents_of as documents_of_file
from raysparse.data.reader import Document
from raysparse.data.store import TokenStore
from raysparse.data.stream import StreamCorpus
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec


def documents_of(
    name: str, most: int = 0, reading: ReadingSpec | None = None, tally: Tally | None = None
) -> list[Document]:
    """The documents of a corpus that are not blank, each text once, in the order of their hashes
    (of a stream: as they come); the first `most` of them, or all for 0. What is left out is counted
    in `tally`.

    Raises ValueError when there is no such corpus or no document in it.
    """
    found: dict[str, Document] = {}
    for document in _read(name, reading or ReadingSpec(), tally or Tally()):
        found.setdefault(document.text, document)
        if name.startswith("hf:") and len(found) == most > 0:
            break
    if not found:
        raise ValueError(f"corpus {name!r} is empty: none of its documents is text that is not blank")
    texts = list(found) if name.startswith("hf:") else sorted(found, key=_key)
    return [found[text] for text in texts[: most or None]]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _read(name: str, reading: ReadingSpec, tally: Tally) -> Iterator[Document]:
    if name.startswith("hf:"):
        yield from StreamCorpus(name, reading).documents(tally)
        return
    for path in places.files_of(name, tally):
        file = str(path) if places.form_of(path) in places.TABLES else ""
        yield from (found._replace(group=found.group or file) for found in documents_of_file(path, reading, tally))


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
