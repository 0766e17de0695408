"""Corpora by name or path: documents from files, split and cut into passages in a fixed order.

A finite corpus is read whole to be known (every document counted, its hash taken), and is then a
stream of passages: documents are cut at line ends into passages of about a page, ordered by the
hash of the passage, so that every prefix of the stream is a random sample of the whole corpus: the
files of a source tree differ in length by a factor of 10,000, and without the cut a small token
budget would be three files. A passage that is also held out is never trained on, and every passage
is kept once.

Left out: where files lie (`places`), their forms (`forms`), what is held out (`split`), and data
sets on a hub, read as they arrive (`stream`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from raysparse.data import near, places, split
from raysparse.data.forms import documents_of
from raysparse.data.passage import Corpus, Passage, Policy
from raysparse.data.reader import Document
from raysparse.data.split import MEET, REACH, Held, Unions, cut, digest, normal
from raysparse.data.stream import StreamCorpus
from raysparse.data.tally import Tally
from raysparse.reading import VALIDATION_SHARE, ReadingSpec


class FiniteCorpus:
    """Documents from files, held in memory.

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
        self._documents, own = self._read(files)
        self._digests = [digest(document.text) for document in self._documents]
        self._keyed = normal if rule == MEET else str  # what is equal of two texts that are one
        kept, unions = self._unique(own)
        self.policy = Policy(rule, self._looks_for_near(policy, kept))
        near_ones = self._join_near(kept, unions) if self.policy.near else 0
        self._held, withheld = self._hold_out(kept, unions, own)
        self._kept = [n for n in kept if n not in withheld]
        self.facts = {
            "documents": len(self._kept), "held_out": len(self._held.documents), "cut": int(self._held.cut is not None),
            "duplicates": len(self._documents) - len(kept), "near_duplicates": near_ones, "withheld": len(withheld),
            **self.tally.counts,
        }  # fmt: skip

    def _read(self, files: Iterable[Path]) -> tuple[list[Document], int]:
        """All documents, those of --validation first, and how many these are."""
        found: list[Document] = []
        if self.reading.validation:
            for path in places.files_of(self.reading.validation, self.tally):
                found += documents_of(path, self.reading, self.tally)
        own = len(found)
        if self.reading.validation and not own:
            raise ValueError(f"validation {self.reading.validation!r} is empty{self._left_out()}")
        self.files = 0
        for path in files:
            found += documents_of(path, self.reading, self.tally)
            self.files += 1
        if len(found) == own:
            raise ValueError(f"corpus {self.name!r} is empty{self._left_out()}")
        return found, own

    def _left_out(self) -> str:
        return "".join(f"; {line}" for line in self.tally.lines())

    def _unique(self, own: int) -> tuple[list[int], Unions]:
        """The documents that are kept, of equal texts the one with the least hash (one of
        --validation before all others); and which of all belong together.
        """
        unions = Unions(len(self._documents))
        first: dict[bytes, int] = {}
        groups: dict[str, int] = {}
        for n in sorted(range(len(self._documents)), key=lambda n: (n >= own, self._digests[n])):
            text, group = self._documents[n]
            one = self._keyed(text)
            key = self._digests[n] if one == text else digest(one)
            unions.join(first.setdefault(key, n), n)
            if group:
                unions.join(groups.setdefault(group, n), n)
        return sorted(first.values()), unions

    def _looks_for_near(self, policy: Policy | None, kept: list[int]) -> bool:
        asked = self.reading.near_duplicates
        if (policy is not None and policy.near) or asked == "on":
            if not near.installed():
                raise ValueError(
                    f"near-duplicates of corpus {self.name!r} cannot be looked for: pip install datasketch, or "
                    f"--near-duplicates off (another store)"
                )
            return True
        small = sum(len(self._documents[n].text) for n in kept) <= near.AFFORDABLE_CHARACTERS
        return policy is None and asked == "auto" and small and near.installed()

    def _join_near(self, kept: list[int], unions: Unions) -> int:
        """Join near-duplicates; returns in how many documents' place one would do."""
        alone = Unions(len(self._documents))
        for n, other in near.near_pairs((n, self._documents[n].text) for n in kept):
            unions.join(n, other)
            alone.join(n, other)
        return len(kept) - len({alone.root(n) for n in kept})

    def _hold_out(self, kept: list[int], unions: Unions, own: int) -> tuple[Held, set[int]]:
        """What is held out, and what is withheld because it belongs to it."""
        if own:
            held = frozenset(n for n in kept if n < own)
            roots = {unions.root(n) for n in held}
            withheld = {n for n in kept if n >= own and unions.root(n) in roots}
            if len(held) + len(withheld) == len(kept):
                raise ValueError(
                    f"validation {self.reading.validation!r} holds every document of corpus {self.name!r}, so none is "
                    f"left to train on"
                )
            return Held(held), withheld
        units = split.units_of(kept, self._digests, self._sizes, unions)
        return split.held_out(units, self.reading.validation_share, self.policy.rule), set()

    @property
    def _sizes(self) -> list[int]:
        return [len(document.text) for document in self._documents]

    @cached_property
    def _pieces(self) -> set[bytes]:
        """The passages of the document that is cut that are held out."""
        if self._held.cut is None:
            return set()
        return split.held_out_pieces(self._documents[self._held.cut].text, self._held.characters)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the documents, whatever their names, order and form; where another set is held
        out than the first rule would, of that set too.
        """
        found = b"".join(sorted(self._digests[n] for n in self._kept))
        units = split.units_of(self._kept, self._digests, self._sizes, Unions(len(self._documents)))
        if split.held_out(units, VALIDATION_SHARE, REACH) != self._held:
            apart = [*(self._digests[n] for n in self._held.documents), *self._pieces]
            found += b"held out" + b"".join(sorted(apart))
        return hashlib.sha256(found).hexdigest()

    def texts(self) -> tuple[dict[int, str], frozenset[int]]:
        """The documents that are kept, and which of them are held out whole."""
        return {n: self._documents[n].text for n in self._kept}, self._held.documents

    @property
    def cut_characters(self) -> float:
        """Of the document that is cut, how many are held out; 0 where none is."""
        return self._held.characters

    def passages(self) -> Iterator[Passage]:
        """Each passage once, in the order of its hash; one that is held out is never trained on."""
        found: dict[bytes, Passage] = {}
        apart: set[bytes] = set()
        for n in self._kept:
            whole = n in self._held.documents
            for text in cut(self._documents[n].text):
                held = whole or (n == self._held.cut and digest(text) in self._pieces)
                order = digest(text, b"order")
                if held:
                    found[order] = Passage(text, True)
                    apart.add(digest(self._keyed(text)))
                else:
                    found.setdefault(order, Passage(text, False))
        for order in sorted(found):
            passage = found[order]
            if passage.held_out or digest(self._keyed(passage.text)) not in apart:
                yield passage


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
