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
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raysparse.data.digests import DIGEST_BYTES, Digests, Unions

PASSAGE_CHARACTERS = 4096  # 16 contexts of 256 bytes, or 4 of 256 BPE tokens; 64 Ki bytes held out are 16 or more
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
    """Documents (by number) that stand on one side together. `may_be_cut`: it is one document, of
    no group.
    """

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


def held_out(units: Units | Sequence[Unit], share: float, rule: int = MEET) -> Held:
    """What is held out of all documents for `share` of their characters, taking units in the order
    in which they come.

    Raises ValueError when all documents are one group, which has no second side.
    """
    total = sum(unit.characters for unit in units)
    if len(units) == 1:
        return _alone(next(iter(units)), share * total)
    found: list[int] = []
    wanted = share * total
    book = least = None  # of the units that are too large: the first that may be cut, and the smallest
    for unit in units:
        if wanted <= 0:
            break
        if rule == MEET and unit.characters > wanted + PASSAGE_CHARACTERS:
            book = unit if book is None and unit.may_be_cut else book
            least = unit if least is None or unit.characters < least.characters else least
            continue
        found += unit.documents
        wanted -= unit.characters
    if wanted <= (PASSAGE_CHARACTERS if found else 0) or least is None:
        return Held(frozenset(found))
    if book is not None:
        return Held(frozenset(found), book.documents[0], wanted)
    if not found or least.characters < 2 * wanted:
        found += least.documents
    return Held(frozenset(found))


def _alone(unit: Unit, characters: float) -> Held:
    """What is held out of the only unit there is: passages of a single book."""
    if not unit.may_be_cut:
        raise ValueError(
            "all documents are one group or near-duplicates of one another, so none can be held out apart from the "
            "others; hold out a set of its own with --validation, drop --group-field, or --near-duplicates off"
        )
    return Held(frozenset(), unit.documents[0], characters)


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


class Units:
    """The units that the `kept` documents make (ascending numbers), of the digests and sizes of
    all, in the order in which they are held out; each is made when it is asked for, as they are as
    many as the documents. A unit of one is ordered by its digest, a larger one by the hash of all
    of them: the least of many would come too early. grouped: every document is of a group, and
    some may be alone in theirs.
    """

    def __init__(self, kept: np.ndarray, digests: Digests, sizes: array[int], unions: Unions, grouped: bool = False):
        self._grouped = grouped
        roots = unions.roots(kept)
        by_root = np.argsort(roots, kind="stable")
        self._members = kept[by_root]
        starts = np.flatnonzero(np.diff(roots[by_root], prepend=-1))
        self._bounds = np.append(starts, len(kept))
        self._sizes = sizes
        keys = digests.halves(self._members[starts])
        for n in np.flatnonzero(np.diff(self._bounds) > 1).tolist():
            one = hashlib.blake2b(digests.ordered(self._numbers(n)), digest_size=DIGEST_BYTES).digest()
            keys[n] = np.frombuffer(one, ">u8")
        self._order = np.lexsort(keys.T[::-1])

    def _numbers(self, unit: int) -> np.ndarray:
        return self._members[self._bounds[unit] : self._bounds[unit + 1]]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Unit]:
        for n in self._order:
            numbers = tuple(self._numbers(n).tolist())
            yield Unit(sum(self._sizes[number] for number in numbers), numbers, len(numbers) == 1 and not self._grouped)
