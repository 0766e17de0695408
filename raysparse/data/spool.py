"""Passages in the order of their hash, sorted on disk in bounded memory.

A hash is spread evenly, so its first bits say in which of many files (buckets) a passage belongs;
each bucket is small enough to be sorted in memory, and the buckets one after the other are the
whole order. Written once and read as often as it is asked for. It takes as much room in the
temporary folder (TMPDIR) as the text; the files have no names there, so that nothing is left of
them when the process ends, or is killed.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator

BUCKET_BYTES = 2**24  # of text in a bucket, about: what is sorted in memory at once
MOST_BUCKETS = 512  # open at once
HEAD = struct.Struct("<16sBI")  # hash, whether held out, bytes of text


class Spool:
    """Add passages, then iterate as often as wanted. `bytes_expected`: of all text, about."""

    def __init__(self, bytes_expected: int):
        count = min(MOST_BUCKETS, 1 + bytes_expected // BUCKET_BYTES)
        self._files = [tempfile.TemporaryFile() for _ in range(count)]  # noqa: SIM115

    def add(self, order: bytes, held_out: bool, text: str) -> None:
        """One passage; `order` is its hash."""
        data = text.encode()
        bucket = int.from_bytes(order[:2], "big") * len(self._files) >> 16
        self._files[bucket].write(HEAD.pack(order, held_out, len(data)) + data)

    def __iter__(self) -> Iterator[tuple[bytes, bool, str]]:
        """(hash, held out, text) in the order of the hash, each once; held out where a copy is."""
        for file in self._files:
            found: dict[bytes, tuple[bool, bytes]] = {}
            file.seek(0)
            data = file.read()
            start = 0
            while start < len(data):
                order, held_out, size = HEAD.unpack_from(data, start)
                start += HEAD.size + size
                if held_out or order not in found:
                    found[order] = bool(held_out), data[start - size : start]
            for order in sorted(found):
                held_out, text = found[order]
                yield order, held_out, text.decode()
