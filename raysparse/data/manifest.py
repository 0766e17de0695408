"""What a token store says about itself: manifest.json, written last and checked first.

The manifest is the store. Shards are named by their content, so they can be written in any order
and by several processes; until the manifest names them they are nothing. Preparing more tokens
writes new shards and then a new manifest, and whoever opened the store before keeps a whole one.

Left out: the shards themselves and what is in them (`store`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from raysparse.data.passage import Policy
from raysparse.data.places import NAMES
from raysparse.data.split import REACH
from raysparse.data.tally import lines_of
from raysparse.files import Folder
from raysparse.reading import ReadingSpec

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Shard:
    """One Arrow file: `tokens` ids in one column; sha256 over the bytes of the file."""

    name: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """tokens count one separator per passage; bytes are UTF-8 bytes of text, without separators.

    complete: the corpus has no more tokens for this split than these.
    """

    passages: int
    tokens: int
    bytes: int
    complete: bool
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """Where the tokens came from, and which shards hold them.

    corpus_facts: as `passage.Corpus.facts`. left_out: the first few places of each kind of what was
    not trained on. reading: how the corpus was read, as JSON of a `ReadingSpec`; split_rule and
    near_duplicates: how it was split (`passage.Policy`). Stores from before these fields were read
    plainly and split by the first rule.
    """

    corpus: str
    corpus_fingerprint: str
    corpus_facts: dict[str, int]
    tokenizer: str
    tokenizer_fingerprint: str
    vocab_size: int
    separator: int
    train: Split
    validation: Split
    left_out: dict[str, list[str]] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    split_rule: int = REACH
    near_duplicates: bool = False

    def write(self, folder: Folder) -> None:
        folder.write_json(MANIFEST, {"format": FORMAT_VERSION, **dataclasses.asdict(self)})

    @staticmethod
    def read(folder: Folder) -> Manifest | None:
        """The manifest in `folder`, None when there is none. Raises ValueError when it is damaged
        or of another format.
        """
        values: Any = folder.read_json_if_there(MANIFEST)
        if values is None:
            return None
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT_VERSION:
            raise ValueError(
                f"{folder.at(MANIFEST)} is not of format {FORMAT_VERSION}; delete the folder to have it made again"
            )
        try:
            for split in SPLITS:
                shards = tuple(Shard(**shard) for shard in values[split].pop("shards"))
                values[split] = Split(**values[split], shards=shards)
            return Manifest(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{folder.at(MANIFEST)} is damaged ({error}); delete the folder to have it made again"
            ) from error

    @property
    def shard_names(self) -> set[str]:
        return {shard.name for split in (self.train, self.validation) for shard in split.shards}

    @property
    def policy(self) -> Policy:
        return Policy(self.split_rule, self.near_duplicates)

    def lines(self) -> list[str]:
        """What was left out of the corpus and what is there twice, for people; a line each."""
        return said_of(self.corpus_facts, {} if self.corpus in NAMES else self.left_out)

    def check_source(self, corpus: str, tokenizer: str, reading: ReadingSpec, where: str) -> None:
        """Raise ValueError when the store in `where` was made from another corpus, with another
        tokenizer, or read in another way.
        """
        stored_reading = ReadingSpec.from_dict(self.reading)
        for what, stored, asked in (
            ("corpus", self.corpus, corpus),
            ("tokenizer", self.tokenizer, tokenizer),
            ("reading", stored_reading.identity(), reading.identity()),
        ):
            if stored != asked:
                raise ValueError(
                    f"the token store in {where} holds {what} {stored!r}, not {asked!r}; use another folder"
                )

    def holds(self, train_tokens: int, validation_tokens: int) -> bool:
        return self.train.tokens >= train_tokens and self.validation.tokens >= validation_tokens

    def check_tokens(self, train_tokens: int, validation_tokens: int, *, growing: bool = False) -> None:
        """Raise ValueError when more is asked for than there is; while `growing`, only when the
        corpus has no more either.
        """
        asked = (("data.unique_tokens", "trains on", train_tokens, self.train),
                 ("data.validation_tokens", "holds out", validation_tokens, self.validation))  # fmt: skip
        for what, does, tokens, split in asked:
            if tokens <= split.tokens or (growing and not split.complete):
                continue
            limit = "is larger than the corpus" if split.complete else "is larger than the token store"
            remedy = "lower it or take a larger corpus" if split.complete else "lower it or prepare more tokens"
            raise ValueError(
                f"{what} {tokens} {limit}: {self.corpus!r} with tokenizer {self.tokenizer!r} {does} "
                f"{split.tokens} tokens in {split.passages} passages; {remedy}"
            )


def said_of(facts: dict[str, int], first: dict[str, list[str]]) -> list[str]:
    """What was left out of a corpus (`first`: where) and what is there twice; a line each."""
    said = lines_of(facts, first)
    for kind, what in (
        ("duplicates", "documents are there already"),
        ("near_duplicates", "documents are nearly another, and stand on its side of the split"),
        ("withheld", "documents are, or belong to, what --validation holds out"),
    ):
        if facts.get(kind):
            said.append(f"{facts[kind]} {what}")
    return said
