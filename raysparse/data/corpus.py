"""Corpora by name or path: documents from files, split and cut into passages in a fixed order.

A finite corpus is read once to be known (every document counted, its hash taken), and is then a
stream of passages. Up to HELD_CHARACTERS its texts are kept in memory; a larger corpus is read
again when it is cut, and its passages are sorted on disk (`spool`), so that memory holds about 200
bytes a document (`digests`) and no text. Documents are cut at line ends into passages of about a
page, ordered by the hash of the passage, so that every prefix of the stream is a random sample of
the whole corpus: the files of a source tree differ in length by a factor of 10,000, and without the
cut a small token budget would be three files. A passage that is also held out is never trained on,
and every passage is kept once.

Left out: where files lie (`places`), their forms (`forms`), what is held out (`split`), and data
sets on a hub, read as they arrive (`stream`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from raysparse.data import near, places, split
from raysparse.data.digests import Digests, Unions
from raysparse.data.forms import documents_of
from raysparse.data.passage import Corpus, Passage, Policy
from raysparse.data.reader import Document
from raysparse.data.split import MEET, REACH, Held, Units, cut, digest, normal
from raysparse.data.spool import Spool
from raysparse.data.stream import StreamCorpus
from raysparse.data.tally import Tally
from raysparse.reading import VALIDATION_SHARE, ReadingSpec

HELD_CHARACTERS = 64 * 2**20  # of text in memory at most


class FiniteCorpus:
    """Documents from files.

    Every document that was read is one of: trained on, held out, cut (facts `documents`, of which
    `held_out` and `cut`), a duplicate, withheld (it is, or belongs to, what --validation holds
    out), or counted in the tally. Raises ValueError when there is no document to train on.
    """

    finite = True

    def __init__(
        self, name: str, files: Iterable[Path], reading: ReadingSpec | None = None, *, tally: Tally | None = None,
        policy: Policy | None = None,
    ):  # fmt: skip
        self.name = name
        self.reading = reading or ReadingSpec()
        self.tally = tally or Tally()
        rule = policy.rule if policy is not None else MEET
        self._keyed = normal if rule == MEET else str  # what is equal of two texts that are one
        self._files = list(files)
        own = self._read()
        kept, unions = self._unique(own)
        self._kept = kept
        self.policy = Policy(rule, self._looks_for_near(policy))
        near_ones = self._join_near(kept, unions) if self.policy.near else 0
        self._held, withheld = self._hold_out(kept, unions, own)
        self._kept = kept[~np.isin(kept, withheld)]
        self.facts = {
            "documents": len(self._kept), "held_out": len(self._held.documents), "cut": int(self._held.cut is not None),
            "duplicates": len(self._digests) - len(kept), "near_duplicates": near_ones, "withheld": len(withheld),
            **self.tally.counts,
        }  # fmt: skip

    def _read(self) -> int:
        """Take note of all documents, those of --validation first; returns how many these are."""
        self._digests, self._keys = Digests(), Digests()
        self._sizes = array("q")
        self._groups = array("q")  # of documents, a number for each group; -1 is none
        groups: dict[str, int] = {}
        self._texts: list[str] | None = []
        own = characters = 0
        for document, is_own in self._stream(self.tally):
            own += is_own
            one, digested = self._keyed(document.text), digest(document.text)
            self._digests.append(digested)
            self._keys.append(digested if one == document.text else digest(one))
            self._sizes.append(len(document.text))
            self._groups.append(groups.setdefault(document.group, len(groups)) if document.group else -1)
            characters += len(document.text)
            if characters > HELD_CHARACTERS:
                self._texts = None
            elif self._texts is not None:
                self._texts.append(document.text)
        if self.reading.validation and not own:
            raise ValueError(f"validation {self.reading.validation!r} is empty{self._left_out()}")
        if len(self._digests) == own:
            raise ValueError(f"corpus {self.name!r} is empty{self._left_out()}")
        return own

    def _stream(self, tally: Tally) -> Iterator[tuple[Document, bool]]:
        """All documents, and whether each is of --validation."""
        if self.reading.validation:
            for path in places.files_of(self.reading.validation, tally):
                yield from ((document, True) for document in documents_of(path, self.reading, tally))
        for path in self._files:
            yield from ((document, False) for document in documents_of(path, self.reading, tally))

    def texts(self) -> Iterator[tuple[int, str]]:
        """(number, text) of the documents that are kept, in the order in which they were read.

        Raises ValueError when a file has changed since.
        """
        kept = np.zeros(len(self._digests), bool)
        kept[self._kept] = True
        if self._texts is not None:
            yield from ((n, text) for n, text in enumerate(self._texts) if kept[n])
            return
        number = -1
        for number, (document, _) in enumerate(self._stream(Tally())):
            if number >= len(kept) or (kept[number] and digest(document.text) != self._digests[number]):
                raise self._changed()
            if kept[number]:
                yield number, document.text
        if number + 1 < len(kept):
            raise self._changed()

    def _changed(self) -> ValueError:
        return ValueError(f"corpus {self.name!r} has changed while it was read; run again")

    def _left_out(self) -> str:
        return "".join(f"; {line}" for line in self.tally.lines())

    def _unique(self, own: int) -> tuple[np.ndarray, Unions]:
        """The documents that are kept (ascending), of equal texts the one with the least hash (one
        of --validation before all others); and which of all belong together.
        """
        unions = Unions(len(self._digests))
        keys, order = self._keys.halves(), self._digests.halves()
        by_key = np.lexsort((order[:, 1], order[:, 0], np.arange(len(keys)) >= own, keys[:, 1], keys[:, 0]))
        another = np.append(True, (np.diff(keys[by_key], axis=0) != 0).any(axis=1))
        kept = by_key[another]
        for n, equal in zip(by_key[~another], kept[np.cumsum(another) - 1][~another], strict=True):
            unions.join(int(equal), int(n))
        first: dict[int, int] = {}
        for n, group in enumerate(self._groups):
            if group >= 0:
                unions.join(first.setdefault(group, n), n)
        return np.sort(kept), unions

    def _looks_for_near(self, policy: Policy | None) -> bool:
        asked = self.reading.near_duplicates
        if (policy is not None and policy.near) or asked == "on":
            if not near.installed():
                raise ValueError(
                    f"near-duplicates of corpus {self.name!r} cannot be looked for: pip install datasketch, or "
                    f"--near-duplicates off (another store)"
                )
            return True
        small = int(np.array(self._sizes)[self._kept].sum()) <= near.AFFORDABLE_CHARACTERS
        return policy is None and asked == "auto" and small and near.installed()

    def _join_near(self, kept: np.ndarray, unions: Unions) -> int:
        """Join near-duplicates; returns in how many documents' place one would do."""
        alone = Unions(len(self._digests))
        for n, other in near.near_pairs(self.texts()):
            unions.join(n, other)
            alone.join(n, other)
        return len(kept) - len(np.unique(alone.roots(kept)))

    def _hold_out(self, kept: np.ndarray, unions: Unions, own: int) -> tuple[Held, np.ndarray]:
        """What is held out, and what is withheld because it belongs to it."""
        if not own:
            units = Units(kept, self._digests, self._sizes, unions, grouped=bool(self.reading.group_field))
            return split.held_out(units, self.reading.validation_share, self.policy.rule), kept[:0]
        held, others = kept[kept < own], kept[kept >= own]
        withheld = others[np.isin(unions.roots(others), unions.roots(held))]
        if len(withheld) == len(others):
            raise ValueError(
                f"validation {self.reading.validation!r} holds every document of corpus {self.name!r}, so none is "
                f"left to train on"
            )
        return Held(frozenset(held.tolist())), withheld

    @cached_property
    def _pieces(self) -> set[bytes]:
        """The passages of the document that is cut that are held out."""
        if self._held.cut is None:
            return set()
        text = next(text for n, text in self.texts() if n == self._held.cut)
        return split.held_out_pieces(text, self._held.characters)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents, whatever their names, order and form; where another set is held
        out than the first rule would, of that set too.
        """
        found = self._digests.ordered(self._kept)
        units = Units(self._kept, self._digests, self._sizes, Unions(len(self._digests)))
        if split.held_out(units, VALIDATION_SHARE, REACH) != self._held:
            apart = [*(self._digests[n] for n in self._held.documents), *self._pieces]
            found += b"held out" + b"".join(sorted(apart))
        return hashlib.sha256(found).hexdigest()

    @property
    def files(self) -> int:
        return len(self._files)

    @property
    def held_out(self) -> frozenset[int]:
        """The documents, by number, that are held out whole."""
        return self._held.documents

    def characters_held_out(self, n: int, text: str) -> int:
        """Of document `n` with this text: all, those of its pieces where it is cut, or none."""
        if n != self._held.cut:
            return len(text) if n in self._held.documents else 0
        return sum(len(piece) for piece in cut(text) if digest(piece) in self._pieces)

    def passages(self) -> Iterator[Passage]:
        """Each passage once, in the order of its hash; one that is held out is never trained on."""
        passages, apart = self._ordered
        for _, held_out, text in passages:
            if held_out or digest(self._keyed(text)) not in apart:
                yield Passage(text, held_out)

    @cached_property
    def _ordered(self) -> tuple[Iterable[tuple[bytes, bool, str]], set[bytes]]:
        """(hash, held out, text) of all passages in order; and the keys of those held out."""
        apart: set[bytes] = set()
        found: dict[bytes, tuple[bool, str]] = {}
        spool = None if self._texts is not None else Spool(sum(self._sizes))
        for order, held_out, text in self._cut(apart):
            if spool is not None:
                spool.add(order, held_out, text)
            elif held_out or order not in found:
                found[order] = held_out, text
        return spool if spool is not None else [(order, *found[order]) for order in sorted(found)], apart

    def _cut(self, apart: set[bytes]) -> Iterator[tuple[bytes, bool, str]]:
        """All passages as they are read; the keys of those held out go to `apart`."""
        for n, document in self.texts():
            whole = n in self._held.documents
            for text in cut(document):
                held_out = whole or (n == self._held.cut and digest(text) in self._pieces)
                if held_out:
                    apart.add(digest(self._keyed(text)))
                yield digest(text, b"order"), held_out, text


def open_corpus(name: str, reading: ReadingSpec | None = None, policy: Policy | None = None) -> Corpus:
    """The corpus called `name`: "python", "python+packages", a file, folder or glob, or
    "hf:NAME[:CONFIG[:SPLIT]]"; read as `reading` says and split as `policy` (default: by the rule
    of new stores).

    A finite corpus is read here, a stream is not touched before its first use. Raises ValueError
    when there is no such corpus, when it is empty, or when nothing in it has the text field.
    """
    reading = reading or ReadingSpec()
    if name.startswith("hf:"):
        return StreamCorpus(name, reading, policy)
    if policy is None and name in places.NAMES and reading.near_duplicates != "on":
        policy = Policy(REACH, near=False)
    tally = Tally()
    return FiniteCorpus(name, places.files_of(name, tally), reading, tally=tally, policy=policy)
