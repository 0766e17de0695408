"""A table from wherever it lies: a run folder, a file, or a URI of an object store.

Texts (CSV and its kin) are read cell by cell, because people's tables hold comment lines, other
delimiters, decimal commas and cells that are no number; a column all of whose cells are plain
numbers becomes numbers here, any other stays text until it is known what it means (`cells`). What
was guessed is returned as notes.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.data.arrow import DECIMAL
from analysis.data.cells import is_plain, parse
from analysis.data.columns import nearest
from raysparse.files import Folder

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = "results.parquet"
FORMS = ".parquet, .csv, .tsv, .jsonl (each also .gz), a run folder, or an s3:// or gs:// URI of one"
DELIMITERS = ",;\t|"
ASIDE = re.compile(r"#|sep=.\s*$")  # comments, and the line that tells a spreadsheet the delimiter
FRACTION = 2**53  # whole numbers above it are read as floats


def load(source: pa.Table | Path | str, where: Mapping[str, str] | None = None) -> tuple[pa.Table, list[str]]:
    """A table, of which only the rows with these values (`where`: column -> value), and notes on
    how it was read. Raises ValueError for what is no table, and a column or value that there is
    not.
    """
    import pyarrow as pa

    table, notes = (source, []) if isinstance(source, pa.Table) else _read(str(source))
    return _chosen(_decoded(table), where or {}), notes


def _decoded(table: pa.Table) -> pa.Table:
    """Without dictionaries (pandas' categories) and views, which say nothing of what is in them."""
    import pyarrow as pa

    for n, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = pa.string() if pa.types.is_string_view(kind) else kind
        if kind != field.type:
            table = table.set_column(n, field.with_type(kind), table.column(n).cast(kind))
    return table


def _read(place: str) -> tuple[pa.Table, list[str]]:
    import pyarrow as pa

    name, data = _bytes(place)
    form = _form(name)
    if form not in READERS:
        raise ValueError(f"cannot read {name!r}: expected {FORMS}")
    if name.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise ValueError(f"cannot read {name!r}: it is damaged ({error})") from error
    try:
        return READERS[form](data)
    except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {name!r}: {error}") from error


def _form(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix


def _bytes(place: str) -> tuple[str, bytes]:
    """The name and bytes of the file at a path or URI; of a run folder, its results."""
    if "://" not in place:
        path = Path(place).expanduser()
        if not path.exists():
            raise ValueError(f"no table at {path}; give {FORMS}")
        if path.is_dir() and not (path / RESULTS).is_file():
            raise ValueError(f"{path} is a folder without {RESULTS}; give a run folder with results, or a file")
        path = path / RESULTS if path.is_dir() else path
        return path.name, path.read_bytes()
    folder, name = Folder(place), RESULTS
    if _form(folder.name) in READERS:
        folder, name = folder.parent, folder.name
    try:
        return name, folder.read(name)
    except OSError as error:
        raise ValueError(f"no table at {place}: {error}") from error


def _parquet(data: bytes) -> tuple[pa.Table, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_table(pa.BufferReader(data)), []


def _separated(data: bytes) -> tuple[pa.Table, list[str]]:
    marks = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    text = data.decode(marks.get(data[:2], "utf-8-sig"))
    lines = io.StringIO("".join(line for line in text.splitlines(keepends=True) if not ASIDE.match(line)))
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(DELIMITERS, key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not names:
        raise ValueError("the table is empty; expected a line of column names and one a run")
    _refuse_long_rows(rows, len(names))
    columns: dict[str, list[str | None]] = {}
    notes = [] if delimiter in ",\t" else [f"columns are separated by {delimiter!r}"]
    for n, name in enumerate(names):
        cells = [row[n].strip() if n < len(row) else None for row in rows]
        if name not in columns:
            columns[name] = cells
        elif cells != columns[name]:
            columns[f"{name} (2)"] = cells
            notes.append(
                f"column {name!r} stands twice with other values, which {name + ' (2)'!r} names; the first is used"
            )
    return _typed(columns).replace_schema_metadata(DECIMAL if delimiter == ";" else None), notes


def _refuse_long_rows(rows: Sequence[Sequence[str]], most: int) -> None:
    """A cell beyond the last name would be lost, and the others may stand under wrong names."""
    for number, row in enumerate(rows, start=1):
        if any(cell.strip() for cell in row[most:]):
            raise ValueError(
                f"row {number} of the table ({row[0].strip()!r}, ...) has {len(row)} cells, but {most} columns have "
                f"names; quote a cell that holds the delimiter, or name every column"
            )


def _typed(columns: Mapping[str, Sequence[str | None]]) -> pa.Table:
    """Columns of plain numbers become numbers."""
    import pyarrow as pa

    made: dict[str, Any] = {}
    for name, cells in columns.items():
        if all(cell is None or is_plain(cell) for cell in cells) and any(cells):
            values = parse(cells).values
            whole = all(cell is None or cell.lstrip("+-").isdecimal() or not cell for cell in cells)
            if whole and (abs(values[values == values]) < FRACTION).all():
                made[name] = pa.array([None if value != value else int(value) for value in values], pa.int64())
            else:
                made[name] = pa.array(values, mask=np.array([not cell for cell in cells]))
        else:
            made[name] = pa.array([cell or None for cell in cells], pa.string())
    return pa.table(made)


def _json_lines(data: bytes) -> tuple[pa.Table, list[str]]:
    """One object a line; nested ones become columns with dots in their names."""
    import pyarrow as pa

    rows = []
    for number, line in enumerate(data.decode("utf-8-sig").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(dict(_flat(json.loads(line))))
            except (ValueError, AttributeError) as error:
                raise ValueError(f"line {number} of the table is no JSON object: {error}") from error
    names = list(dict.fromkeys(name for row in rows for name in row))
    made = {}
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            made[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # words among numbers, or endless ones
            made[name] = pa.array([None if value is None else str(value) for value in values])
    return pa.table(made), []


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in record.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


READERS: dict[str, Callable[[bytes], tuple[pa.Table, list[str]]]] = {
    ".parquet": _parquet, ".csv": _separated, ".tsv": _separated, ".jsonl": _json_lines, ".ndjson": _json_lines,
}  # fmt: skip


def _chosen(table: pa.Table, where: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    for column, wanted in where.items():
        if column not in table.column_names:
            known = table.column_names
            raise ValueError(f"--where names column {column!r}, which the table lacks{nearest(column, known)}")
        values = [str(value) for value in table[column].to_pylist()]
        if wanted not in values:
            known = sorted(set(values))
            raise ValueError(f"--where {column}={wanted}: no row has it{nearest(wanted, known)}; there are {known[:8]}")
        table = table.filter(pa.array([value == wanted for value in values]))
    return table
