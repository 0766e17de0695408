"""Which documents are held out, in what pieces the rest is read, and in which order: all by hashes
of the text, never by file order, dates or a random generator.

The second rule (`MEET`), of every new store: texts that differ in line ends or outer white space
only are one text; documents of one group, and near-duplicates, are one unit; units are held out in
the order of their hash, each that fits, until the share of characters is met within a passage. A
unit that is too large is passed over for smaller ones. Only when none of them is left is one
document cut, and its passages stand on both sides, as those of a single book must; a group is never
cut, so that a corpus of few large groups meets its share as nearly as they allow.

The first rule (`REACH`), kept for `python`, `python+packages` and for stores made by it, because a
loss belongs to its split: whole documents, by the smallest hash, as many as reach the share; only
identical texts are one.

Left out: finding near-duplicates (`near`), and streams, whose side is asked of each text alone
(`is_held_out`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PASSAGE_CHARACTERS = 4096  # 16 contexts of 256 bytes, or 4 of 256 BPE tokens; 64 Ki bytes held out are 16 or more
DIGEST_BYTES = 16
REACH, MEET = 1, 2


def digest(text: str, purpose: bytes = b"document") -> bytes:
    """A hash of the text; hashes for different purposes are independent of each other."""
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES, person=purpose).digest()


def normal(text: str) -> str:
    """What two texts have in common that are one: no outer white space, one kind of line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def is_held_out(document: bytes, share: float) -> bool:
    """Of a stream, whose length nobody knows: whether this digest is among the lowest `share` of
    all digests.
    """
    return int.from_bytes(document[:8], "big") < share * 2**64


def cut(text: str) -> Iterator[str]:
    """The text in pieces of at most PASSAGE_CHARACTERS, at line ends where there are any."""
    start = 0
    while start < len(text):
        limit = start + PASSAGE_CHARACTERS
        stop = (text.rfind("\n", start, limit) + 1 if limit < len(text) else 0) or limit
        yield text[start:stop]
        start = stop


@dataclass(frozen=True)
class Unit:
    """Documents (by number) that stand on one side together. key: its place in the order.
    `may_be_cut`: it is one document, of no group.
    """

    key: bytes
    characters: int
    documents: tuple[int, ...]
    may_be_cut: bool = True


@dataclass(frozen=True)
class Held:
    """documents: those held out whole, by number. cut: the one of which passages of `characters`
    in all are held out (None: none is).
    """

    documents: frozenset[int]
    cut: int | None = None
    characters: float = 0.0


def held_out(units: Sequence[Unit], share: float, rule: int = MEET) -> Held:
    """What is held out of all documents for `share` of their characters.

    Raises ValueError when all documents are one group, which has no second side.
    """
    total = sum(unit.characters for unit in units)
    ordered = sorted(units, key=lambda unit: unit.key)
    if len(units) == 1 and units[0].may_be_cut:  # a single book
        return Held(frozenset(), units[0].documents[0], share * total)
    if len(units) == 1:
        raise ValueError(
            "all documents are one group or near-duplicates of one another, so none can be held out apart from the "
            "others; hold out a set of its own with --validation, drop --group-field, or --near-duplicates off"
        )
    found: list[int] = []
    wanted = share * total
    passed: list[Unit] = []
    for unit in ordered:
        if wanted <= 0:
            break
        if rule == MEET and unit.characters > wanted + PASSAGE_CHARACTERS:
            passed.append(unit)
            continue
        found += unit.documents
        wanted -= unit.characters
    if wanted <= (PASSAGE_CHARACTERS if found else 0) or not passed:
        return Held(frozenset(found))
    if (book := next((unit for unit in passed if unit.may_be_cut), None)) is not None:
        return Held(frozenset(found), book.documents[0], wanted)
    least = min(passed, key=lambda unit: unit.characters)
    if not found or least.characters < 2 * wanted:
        found += least.documents
    return Held(frozenset(found))


def held_out_pieces(text: str, characters: float) -> set[bytes]:
    """The passages (by digest) of a document that is cut: those with the smallest digests, as many
    as hold this many characters.
    """
    pieces = {digest(piece): len(piece) for piece in cut(text)}
    found = set()
    for piece in sorted(pieces):
        if characters <= 0:
            break
        found.add(piece)
        characters -= pieces[piece]
    return found


class Unions:
    """Numbers that are put together pairwise; `root` tells whether two are."""

    def __init__(self, size: int):
        self._parent = list(range(size))

    def root(self, n: int) -> int:
        while self._parent[n] != n:
            self._parent[n] = self._parent[self._parent[n]]
            n = self._parent[n]
        return n

    def join(self, a: int, b: int) -> None:
        first, second = sorted((self.root(a), self.root(b)))
        self._parent[second] = first


def units_of(kept: Sequence[int], digests: Sequence[bytes], sizes: Sequence[int], unions: Unions) -> list[Unit]:
    """The units that the `kept` documents make, of the digests and sizes of all. A unit of one is
    ordered by its digest, a larger one by the hash of all of them: the least of many would come too
    early.
    """
    members: dict[int, list[int]] = {}
    for n in kept:
        members.setdefault(unions.root(n), []).append(n)
    found = []
    for numbers in members.values():
        key = digests[numbers[0]]
        if len(numbers) > 1:
            key = hashlib.blake2b(b"".join(sorted(digests[n] for n in numbers)), digest_size=DIGEST_BYTES).digest()
        found.append(Unit(key, sum(sizes[n] for n in numbers), tuple(numbers), len(numbers) == 1))
    return found
