"""How a corpus is read: which field is the text, in which encoding, and what is held out.

A record of its own inside `DataSpec`, because it is handed on whole: to the reader of files, to the
split, to the tokenizer, and into the name of a token store. Every field came later than the first
trial ids, so each is left out of an id at its default. Left out: what a corpus is (`data/places`),
and reading it (`data/forms`).
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Literal

from raysparse.record import Record, added, require, require_choice

NearDuplicates = Literal["auto", "on", "off"]
VALIDATION_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class ReadingSpec(Record):
    """Fields are dotted paths into a record ("data.text"); a name with a dot in it wins.

    Raises ValueError for an encoding that Python does not know and a share that is no fraction.
    """

    text_field: str = added("text")
    group_field: str = added("")  # documents of one value stand on one side of the split; "" makes no groups
    encoding: str = added("")  # "" is what a byte order mark or a Python source declares, else UTF-8
    replace_bad_bytes: bool = added(False)  # read what is not of the encoding as U+FFFD; else the document is left out
    separator_token: str = added("")  # "" is the tokenizer's own end of text
    validation: str = added("")  # a file, folder or glob that is held out instead of a share of the corpus
    validation_share: float = added(VALIDATION_SHARE)  # of the characters; of the documents of a stream
    near_duplicates: NearDuplicates = added("auto")  # auto: on one side where datasketch is installed, to 16 Mi chars

    def __post_init__(self) -> None:
        require(bool(self.text_field), "reading.text_field", self.text_field, "the name of a field")
        require(0.0 < self.validation_share < 1.0, "reading.validation_share", self.validation_share,
                "a fraction in (0, 1)")  # fmt: skip
        require_choice("reading.near_duplicates", self.near_duplicates, NearDuplicates)
        if self.validation and self.validation_share != VALIDATION_SHARE:
            raise ValueError(
                f"reading.validation_share is {self.validation_share:g} and reading.validation is "
                f"{self.validation!r}: held out is either a share of the corpus or a set of its own; give one"
            )
        if self.encoding:
            try:
                codecs.lookup(self.encoding)
            except LookupError as error:
                raise ValueError(
                    f"reading.encoding is {self.encoding!r}, expected one that Python knows, for example cp1252"
                ) from error
