"""Near-duplicates: pairs of texts that share at least THRESHOLD of their runs of words.

MinHash with banding, by datasketch (Broder 1997; the extra `near`), so the answer is an estimate:
of pairs at the threshold about half are found, of those at .95 nearly all. Where words are not set
apart by spaces, runs of characters stand in for runs of words. White space, punctuation and
case do not count.
"""

from __future__ import annotations

import importlib.util
import re
import zlib
from collections.abc import Iterable, Iterator

THRESHOLD = 0.8
PERMUTATIONS = 128  # the estimate's standard error is .035 at the threshold
WORDS, CHARACTERS = 5, 12  # of a run
AFFORDABLE_CHARACTERS = 16 * 2**20  # about half a minute on one core; more only when asked for
LONG_WORD = 20  # characters of a mean word: no spaces between words
WORD = re.compile(r"\w+")


def installed() -> bool:
    return importlib.util.find_spec("datasketch") is not None


def runs(text: str) -> set[bytes]:
    """The runs that stand for a text; the whole of a short one."""
    words = WORD.findall(text.lower())
    if words and sum(map(len, words)) > LONG_WORD * len(words):
        joined = "".join(words)
        return {joined[n : n + CHARACTERS].encode() for n in range(max(1, len(joined) - CHARACTERS + 1))}
    return {" ".join(words[n : n + WORDS]).encode() for n in range(max(1, len(words) - WORDS + 1))}


def near_pairs(texts: Iterable[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    """(number, earlier number) of texts that are near-duplicates."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    sketches: dict[int, MinHash] = {}
    for number, text in texts:
        sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
        sketch.update_batch(sorted(runs(text)))
        for other in index.query(sketch):
            if sketch.jaccard(sketches[other]) >= THRESHOLD:
                yield number, other
        sketches[number] = sketch
        index.insert(number, sketch)
