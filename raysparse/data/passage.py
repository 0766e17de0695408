"""What a corpus gives and what it says of itself: the records and the protocol that files and
streams share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec


class Passage(NamedTuple):
    """A piece of text that is packed as a whole, and whether it is held out for validation."""

    text: str
    held_out: bool


class Policy(NamedTuple):
    """How a corpus was split: by which rule (`split`), and whether near-duplicates were looked for.
    A store is only ever extended under its own.
    """

    rule: int
    near: bool


class Corpus(Protocol):
    """Documents in a deterministic order.

    finite: whether `fingerprint` is a hash of the documents (cheap to check again) or names a
    stream and its revision. policy: as above.
    """

    name: str
    finite: bool
    reading: ReadingSpec
    policy: Policy
    tally: Tally

    @property
    def fingerprint(self) -> str: ...

    @property
    def facts(self) -> dict[str, int]:
        """How many documents there are, are held out, and were left out, by reason."""
        ...

    def passages(self) -> Iterator[Passage]: ...
