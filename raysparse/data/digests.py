"""What is known of every document of a large corpus, in a few bytes each: hashes in one piece of
memory, and which documents belong together.

A Python object for each hash or number would take ten times as much, and documents can be many.
Left out: how a text is hashed and what follows from it (`split`).
"""

from __future__ import annotations

from array import array

import numpy as np

DIGEST_BYTES = 16


class Digests:
    """Hashes of DIGEST_BYTES each, by number."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def append(self, digest: bytes) -> None:
        self._bytes += digest

    def __len__(self) -> int:
        return len(self._bytes) // DIGEST_BYTES

    def __getitem__(self, n: int) -> bytes:
        return bytes(self._bytes[n * DIGEST_BYTES : (n + 1) * DIGEST_BYTES])

    def halves(self, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Of all, or of these: uint64 [n, 2], ordered as the bytes are."""
        return np.frombuffer(self._bytes, ">u8").reshape(-1, 2)[numbers].astype(np.uint64)

    def ordered(self, numbers: np.ndarray) -> bytes:
        """Those of `numbers`, one after the other in ascending order."""
        found = self.halves(numbers)
        return found[np.lexsort(found.T[::-1])].astype(">u8").tobytes()


class Unions:
    """Numbers that are put together pairwise; `root` tells whether two are."""

    def __init__(self, size: int):
        self._parent = array("q", range(size))

    def root(self, n: int) -> int:
        while self._parent[n] != n:
            self._parent[n] = self._parent[self._parent[n]]
            n = self._parent[n]
        return n

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        """The root of each, int64 [n]."""
        parent = np.frombuffer(self._parent, np.int64)
        found: np.ndarray = parent[numbers]
        while not np.array_equal(above := parent[found], found):
            found = above
        return found

    def join(self, a: int, b: int) -> None:
        first, second = sorted((self.root(a), self.root(b)))
        self._parent[second] = first
