"""One file to its documents: text as a whole, a line of JSON, a row of a table; packed or not.

Everything is read as a stream, so a file may be larger than memory (only a text, which is one
document, and a packed table of columns are held whole). Line ends of text files become one, as
Python reads them; a text inside JSON or a table stays as it is. What is left out and counted, and
what is an error, is `reader`'s.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import tokenize
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from raysparse.data import columns
from raysparse.data.places import form_of
from raysparse.data.reader import Document, Reader, no_field, pick
from raysparse.data.tally import Tally
from raysparse.reading import ReadingSpec

CHUNK = 2**20  # characters of JSON read at once
BETWEEN = re.compile(r"[\s,]*")  # JSON values
DELIMITERS = ",;\t|"


def documents_of(path: Path, reading: ReadingSpec, tally: Tally) -> Iterator[Document]:
    """The documents of one file.

    Raises ValueError for a file that cannot be read, is damaged, is not of its form, or has the
    field in none of its records.
    """
    reader = Reader(path, reading, tally)
    try:
        yield from TABLES.get(form_of(path), _text)(reader)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    except UnicodeDecodeError as error:  # of an encoding whose bad bytes cannot be told apart
        raise ValueError(
            f"{path} is not {error.encoding} throughout: {error.reason}; name its encoding with --encoding, or "
            f"--replace-bad-bytes"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    reader.check_fields()


def _text(reader: Reader) -> Iterator[Document]:
    """A file as one document."""
    with reader.open() as file:
        data = file.read()
    encoding = reader.encoding(data[:4])
    if form_of(Path(reader.path)) == ".py" and not reader.reading.encoding:
        try:  # a source's own declaration
            encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        except SyntaxError as error:
            return reader.tally.add("undecodable", reader.path, why=str(error))
    text = reader.decoded(data, encoding=encoding)
    if text is None:
        return None
    found = reader.document(text.replace("\r\n", "\n").replace("\r", "\n"), None, 0)
    if found is not None:
        yield found


def _json_lines(reader: Reader) -> Iterator[Document]:
    with reader.open() as file:
        for number, line in enumerate(_lines(reader, file), start=1):
            text = reader.decoded(line, number, "line") if isinstance(line, bytes) else line
            if text is None:
                continue
            text = text.removeprefix("\ufeff") if number == 1 else text
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{reader.path} line {number} is not JSON: {error}") from error
            if (found := reader.record(value, number, "line")) is not None:
                yield found


def _lines(reader: Reader, file: BinaryIO) -> Iterable[bytes | str]:
    """Lines as bytes, so that one bad byte costs one line; decoded where a line end is no byte."""
    encoding = reader.encoding(_head(file))
    if "16" in encoding or "32" in encoding:
        return io.TextIOWrapper(file, encoding, reader.errors, newline="\n")
    return file


def _head(file: BinaryIO) -> bytes:
    found: bytes = file.peek(4)  # type: ignore[attr-defined]
    return found[:4]


def _json(reader: Reader) -> Iterator[Document]:
    """An array of records, or records one after the other, whatever white space is between them;
    bad bytes are met record by record.
    """
    with reader.open() as file:
        encoding = reader.encoding(_head(file))
        text = io.TextIOWrapper(file, encoding, _escaping(reader), newline="")
        encoder = codecs.getincrementalencoder(encoding)("surrogateescape")
        at = 0  # bytes of the file before this record
        for number, (value, raw) in enumerate(_values(text, reader.path), start=1):
            try:
                raw.encode()
            except UnicodeEncodeError as error:
                bad = at + len(encoder.encode(raw[: error.start]))
                why = f"byte {ord(raw[error.start]) - 0xDC00:#04x} at {bad} of the file is not {encoding}"
                reader.tally.add("undecodable", reader.path, number, why, "record")
                at = bad + len(encoder.encode(raw[error.start :]))
                continue
            if reader.errors == "strict":  # otherwise none is bad
                at += len(encoder.encode(raw))
            if (found := reader.record(value, number, "record")) is not None:
                yield found


def _escaping(reader: Reader) -> str:
    """How to decode what is judged later, piece by piece: bad bytes become halves of surrogates."""
    return "replace" if reader.reading.replace_bad_bytes else "surrogateescape"


def _values(file: TextIO, path: Path | str) -> Iterator[tuple[Any, str]]:
    """The JSON values of a stream, or of the one array that it is; each with the text that ends
    with it and begins where the one before ended.
    """
    decoder = json.JSONDecoder()
    text = file.read(CHUNK)
    before, start, size, ended = 0, BETWEEN.match(text).end(), CHUNK, not text  # type: ignore[union-attr]
    inside = text[start : start + 1] == "["
    start += inside
    while True:
        start = BETWEEN.match(text, start).end()  # type: ignore[union-attr]
        if inside and text[start : start + 1] == "]":
            _nothing_after(file, text[start + 1 :], path)
            return
        try:
            value, stop = decoder.raw_decode(text, start)
        except ValueError as error:
            if ended and (inside or start < len(text)):
                raise ValueError(f"{path} is not JSON: {error}") from error
            if ended:
                return
            more = file.read(size)
            text, before, start, ended = text[before:] + more, 0, start - before, not more
            size *= 2  # a long text is not begun too often
            continue
        yield value, text[before:stop]
        before = start = stop
        size = CHUNK


def _nothing_after(file: TextIO, rest: str, path: Path | str) -> None:
    """What follows an array would be lost."""
    rest = rest or file.read(CHUNK)
    while rest and not rest.strip():
        rest = file.read(CHUNK)
    if rest:
        raise ValueError(
            f"{path} is not JSON: {rest.strip()[:40]!r} follows its array, expected the end of the file; put all "
            f"records into one array, or write them one after the other without brackets"
        )


def _separated(reader: Reader) -> Iterator[Document]:
    """CSV and TSV: the first row names the columns; bad bytes are met cell by cell."""
    csv.field_size_limit(sys.maxsize)
    with reader.open() as file:
        text = io.TextIOWrapper(file, reader.encoding(_head(file)), _escaping(reader), newline="")
        head = text.readline()
        delimiter = "\t" if form_of(Path(reader.path)) == ".tsv" else max(DELIMITERS, key=head.count)
        names = next(csv.reader([head], delimiter=delimiter), [])
        for field, option in (
            (reader.reading.text_field, "--text-field"),
            (reader.reading.group_field, "--group-field"),
        ):
            if field and field not in names:
                raise no_field(reader.path, field, names, option)
        rows = csv.reader(text, delimiter=delimiter)
        try:
            for number, row in enumerate(rows, start=2):
                if any(cell.strip() for cell in row[len(names) :]):
                    raise _too_long(reader, row, len(names), number)
                if row and (found := _of_row(reader, dict(zip(names, row, strict=False)), number)) is not None:
                    yield found
        except csv.Error as error:
            raise ValueError(f"{reader.path} line {rows.line_num + 1} is not CSV: {error}") from error


def _too_long(reader: Reader, row: list[str], names: int, number: int) -> ValueError:
    """Text beyond the last name would be lost."""
    return ValueError(
        f"{reader.path} row {number} ({row[0]!r:.60}, ...) has {len(row)} cells, but {names} columns have names; quote "
        f"a text that holds the delimiter, or put plain text in a .txt file"
    )


def _of_row(reader: Reader, record: dict[str, str], number: int) -> Document | None:
    value: Any = pick(record, reader.reading.text_field)
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # bytes that were no characters
            value = value.encode(reader.reading.encoding or "utf-8", "surrogateescape")
    group = pick(record, reader.reading.group_field) if reader.reading.group_field else None
    return reader.document(value, group, number)


TABLES: dict[str, Callable[[Reader], Iterator[Document]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _separated, ".tsv": _separated,
    ".parquet": columns.parquet, ".arrow": columns.arrow,
}  # fmt: skip
