"""What reading a file shares, whatever its form: unpacking, encodings, fields, and what is counted.

A value that was found becomes a `Document` or is counted in the tally and left out (null, blank,
not of its encoding); a value that is no text at all, and a field that no record has, are errors
that name the place and the fields that exist. Left out: the forms themselves (`forms`, `columns`).
"""

from __future__ import annotations

import codecs
import gzip
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec
from raysparse.record import nearest

MARKS = (  # byte order marks, the longer first where one begins another
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


class Document(NamedTuple):
    """A text that is not blank, and its group ("" where there is none)."""

    text: str
    group: str = ""


class Missing(NamedTuple):
    """That a record lacks a field, with the fields it has."""

    fields: tuple[str, ...]


def pick(record: Mapping[str, Any], field: str) -> Any:
    """The value at a dotted path of a record, or `Missing`; a name with dots in it wins."""
    at, rest = record, field
    while rest not in at:
        name, _, rest = rest.partition(".")
        inner = at.get(name)
        if not rest or not isinstance(inner, Mapping):
            return Missing(tuple(paths(record)))
        at = inner
    return at[rest]


def paths(record: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The fields of a record, dotted where there are records in it."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from paths(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def no_field(where: object, field: str, fields: Iterable[str], option: str = "--text-field") -> ValueError:
    """The error for a field that does not exist, with those that do."""
    known = list(fields)
    return ValueError(
        f"{where} has no field {field!r}{nearest(field, known)}; its fields are {', '.join(known)}; "
        f"name one with {option}"
    )


class Reader:
    """One file (or stream, whose `path` is its name) being read."""

    def __init__(self, path: Path | str, reading: ReadingSpec, tally: Tally):
        self.path, self.reading, self.tally = path, reading, tally
        self.errors = "replace" if reading.replace_bad_bytes else "strict"
        self._met = {reading.text_field: False, reading.group_field: False}
        self._fields: tuple[str, ...] = ()

    @property
    def is_packed(self) -> bool:
        return Path(self.path).suffix.lower() in (".gz", ".zst")

    def open(self) -> BinaryIO:
        """The bytes of the file, unpacked; they can be peeked at."""
        kind = Path(self.path).suffix.lower()
        if kind == ".gz":
            return cast(BinaryIO, gzip.open(self.path))
        if kind == ".zst":
            import pyarrow as pa

            return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(self.path), compression="zstd")))
        return open(self.path, "rb")

    def encoding(self, head: bytes) -> str:
        """What was asked for, or what the first bytes say, or UTF-8."""
        if self.reading.encoding:
            return self.reading.encoding
        return next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")

    def decoded(self, data: bytes, number: int = 0, unit: str = "row", encoding: str = "") -> str | None:
        """The text of bytes; None, and counted, where they are not of the encoding, or where it was
        not said and there are zero bytes: UTF-16 without a mark reads as UTF-8 with them.
        """
        try:
            text = data.decode(encoding or self.reading.encoding or "utf-8", self.errors)
        except UnicodeDecodeError as error:
            why = f"byte {data[error.start]:#04x} at {error.start} is not {error.encoding}"
            self.tally.add("undecodable", self.path, number, why, unit)
            return None
        if "\0" in text and not self.reading.encoding:
            why = f"zero byte at {data.index(0)}, which is no text, or of UTF-16 without a mark"
            self.tally.add("undecodable", self.path, number, why, unit)
            return None
        return text

    def record(self, value: Any, number: int, unit: str = "row") -> Document | None:
        """The document of a JSON value: an object with the field, or a text itself."""
        if isinstance(value, str):
            return self.document(value, None, number, unit)
        if not isinstance(value, Mapping):
            raise ValueError(
                f"{self.path} {unit} {number} has no text: it is {value!r:.60}; expected an object with a string in "
                f"its field {self.reading.text_field!r}"
            )
        group = pick(value, self.reading.group_field) if self.reading.group_field else None
        return self.document(pick(value, self.reading.text_field), group, number, unit)

    def document(self, value: Any, group: Any, number: int, unit: str = "row") -> Document | None:
        """A document, or None for what was counted. Raises ValueError for what is no text."""
        for field, found in ((self.reading.text_field, value), (self.reading.group_field, group)):
            if isinstance(found, Missing):
                self._fields = found.fields
            else:
                self._met[field] = True
        if value is None or isinstance(value, Missing):
            self.tally.add("null", self.path, number, unit=unit)
            return None
        if isinstance(value, bytes) and (value := self.decoded(value, number, unit)) is None:
            return None
        if not isinstance(value, str):
            raise ValueError(
                f"{self.path} {unit} {number} has no text: its field {self.reading.text_field!r} is {value!r:.60}, "
                f"expected a text; name another with --text-field"
            )
        if not value.strip():
            self.tally.add("blank", self.path, number, unit=unit)
            return None
        if self.reading.replace_bad_bytes and "\ufffd" in value:
            self.tally.add("replaced", self.path, number, unit=unit)
        # JSON can spell half a surrogate pair, which is no character.
        text = value.encode(errors="replace").decode()
        return Document(text, "" if group is None or isinstance(group, Missing) else str(group))

    def check_fields(self) -> None:
        """Raise ValueError when records were read and none had a field that was asked for."""
        if not self._fields:
            return
        for field, option in ((self.reading.text_field, "--text-field"), (self.reading.group_field, "--group-field")):
            if field and not self._met[field]:
                raise no_field(self.path, field, self._fields, option)
