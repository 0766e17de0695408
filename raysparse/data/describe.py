"""What a corpus holds, for people: `raysparse data CORPUS`.

Counts of everything that was read and left out, tokens by tokenizer, scripts of the letters, the
largest documents, and how many unique tokens a sweep can ask for: the training tokens. Tokens are
counted on a sample of passages where there are many. Languages are not told apart, only scripts: a
language by a few words would be a guess. Streams are not described: nobody knows how long they are.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from raysparse.data.corpus import FiniteCorpus
from raysparse.data.manifest import said_of
from raysparse.data.tokenizer import make_tokenizer
from raysparse.units import count

SAMPLE_PASSAGES = 2_000  # of each side: 8 Mi characters at most
LARGEST = 5
SCRIPT_CHARACTERS = 200_000


def lines(found: FiniteCorpus, tokenizers: list[str]) -> Iterator[str]:
    """The description, a line each. Raises ValueError for a tokenizer that does not exist."""
    documents, held = found.texts()
    characters = sum(map(len, documents.values()))
    yield f"corpus {found.name} [{found.fingerprint[:8]}]"
    yield f"  {found.files} files, {len(documents):,} documents, {characters:,} characters"
    apart = sum(len(documents[n]) for n in held)
    cut = ", one cut" if found.facts["cut"] else ""
    yield f"  held out: {len(held):,} documents{cut} ({(apart + found.cut_characters) / characters:.1%} of characters)"
    for line in said_of(found.facts, found.tally.first):
        yield f"  {line}"
    if not found.policy.near:
        yield "  near-duplicates were not looked for (--near-duplicates on; pip install datasketch)"
    yield f"  scripts: {', '.join(f'{name} {share:.0%}' for name, share in scripts(documents.values()))}"
    largest = sorted(documents.values(), key=len, reverse=True)[:LARGEST]
    yield f"  largest documents: {', '.join(f'{len(text):,}' for text in largest)} characters"
    for name in tokenizers:
        train, held_out = tokens(found, name)
        yield f"  tokenizer {name}: a sweep can ask for {count(train)} unique tokens; {count(held_out)} are held out"


def tokens(found: FiniteCorpus, name: str) -> tuple[float, float]:
    """Training and held-out tokens, separators counted; of a sample, scaled by characters, where
    there are more passages than SAMPLE_PASSAGES.
    """
    training = (passage.text for passage in found.passages() if not passage.held_out)
    tokenizer = make_tokenizer(name, training, found.reading.separator_token)
    totals = []
    for side in (False, True):
        texts = [passage.text for passage in found.passages() if passage.held_out is side]
        sample = texts[:SAMPLE_PASSAGES]
        made = sum(len(ids) + 1 for ids in tokenizer.encode_batch(sample))
        whole, part = sum(map(len, texts)), sum(map(len, sample))
        totals.append(made * whole / part if part else 0.0)
    return totals[0], totals[1]


def scripts(texts: Iterable[str]) -> list[tuple[str, float]]:
    """Shares of the letters of a sample by script, as Unicode names them, the largest first."""
    found: Counter[str] = Counter()
    letters = (c for text in texts for c in text[:1000] if c.isalpha())
    for letter in islice(letters, SCRIPT_CHARACTERS):
        found[unicodedata.name(letter, "OTHER").split()[0].lower()] += 1
    total = sum(found.values())
    return [(name, n / total) for name, n in found.most_common(4)] or [("none", 1.0)]
