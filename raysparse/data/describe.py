"""What a corpus holds, for people: `raysparse data CORPUS`.

Counts of everything that was read and left out, tokens by tokenizer, scripts of the letters, the
largest documents, and how many unique tokens a sweep can ask for: the training tokens. Tokens are
counted on a sample of passages where there are many. Languages are not told apart, only scripts: a
language by a few words would be a guess. Streams are not described: nobody knows how long they are.
"""

from __future__ import annotations

import heapq
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from raysparse.data.corpus import FiniteCorpus
from raysparse.data.manifest import said_of
from raysparse.data.tokenizer import make_tokenizer
from raysparse.units import count

SAMPLE_PASSAGES = 2_000  # of each side: 8 Mi characters at most
LARGEST = 5
SCRIPT_DOCUMENTS, SCRIPT_CHARACTERS = 2_000, 1_000  # and their first characters


def lines(found: FiniteCorpus, tokenizers: list[str]) -> Iterator[str]:
    """The description, a line each. Raises ValueError for a tokenizer that does not exist."""
    documents = characters = apart = 0
    largest: list[int] = []
    letters: Counter[str] = Counter()
    for n, text in found.texts():
        documents += 1
        characters += len(text)
        apart += found.characters_held_out(n, text)
        largest = heapq.nlargest(LARGEST, [*largest, len(text)])
        if documents <= SCRIPT_DOCUMENTS:
            letters.update(c for c in text[:SCRIPT_CHARACTERS] if c.isalpha())
    yield f"corpus {found.name} [{found.fingerprint[:8]}]"
    yield f"  {found.files} files, {documents:,} documents, {characters:,} characters"
    cut = ", one cut" if found.facts["cut"] else ""
    yield f"  held out: {len(found.held_out):,} documents{cut} ({apart / characters:.1%} of characters)"
    for line in said_of(found.facts, found.tally.first):
        yield f"  {line}"
    if not found.policy.near:
        yield "  near-duplicates were not looked for (--near-duplicates on; pip install datasketch)"
    yield f"  scripts: {', '.join(f'{name} {share:.0%}' for name, share in scripts(letters))}"
    yield f"  largest documents: {', '.join(f'{size:,}' for size in largest)} characters"
    for name in tokenizers:
        train, held_out = tokens(found, name)
        yield f"  tokenizer {name}: a sweep can ask for {train} unique tokens; {held_out} are held out"


class Tokens(NamedTuple):
    """exact: all of them were counted, not a sample."""

    number: float
    exact: bool

    def __str__(self) -> str:
        """What is exact is said to the last one, as a sweep can ask for all of them."""
        return f"{self.number:.0f}" if self.exact else f"about {count(self.number)}"


def tokens(found: FiniteCorpus, name: str) -> tuple[Tokens, Tokens]:
    """Training and held-out tokens, separators counted; of a sample, scaled by characters, where
    there are more passages than SAMPLE_PASSAGES.
    """
    training = (passage.text for passage in found.passages() if not passage.held_out)
    tokenizer = make_tokenizer(name, training, found.reading.separator_token)
    made, part, whole = [0, 0], [0, 0], [0, 0]
    sample: list[list[str]] = [[], []]
    for passage in found.passages():
        whole[passage.held_out] += len(passage.text)
        if len(sample[passage.held_out]) < SAMPLE_PASSAGES:
            sample[passage.held_out].append(passage.text)
            part[passage.held_out] += len(passage.text)
    for side in (False, True):
        made[side] = sum(len(ids) + 1 for ids in tokenizer.encode_batch(sample[side]))
    totals = [
        Tokens(made[side] * whole[side] / max(part[side], 1), whole[side] == part[side]) for side in (False, True)
    ]
    return totals[0], totals[1]


def scripts(letters: Mapping[str, int]) -> list[tuple[str, float]]:
    """Shares of letters by script, as Unicode names them, the largest first."""
    found: Counter[str] = Counter()
    for letter, n in letters.items():
        found[unicodedata.name(letter, "OTHER").split()[0].lower()] += n
    total = sum(found.values())
    return [(name, n / total) for name, n in found.most_common(4)] or [("none", 1.0)]
