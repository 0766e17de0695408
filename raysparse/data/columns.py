"""Documents of tables of columns: Parquet and Arrow (files and streams).

Rows come in batches, so a table may be larger than memory. A text is a column of strings, of
dictionary-coded strings or of bytes; a dotted field goes into columns of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from raysparse.data.reader import Document, Reader, no_field

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 256  # of Parquet at once


def parquet(reader: Reader) -> Iterator[Document]:
    """Raises ValueError for what is no Parquet, and as `_documents` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reader.open() as file:
        try:
            source = pq.ParquetFile(pa.BufferReader(file.read()) if reader.is_packed else file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{reader.path} is not a Parquet file: {error}") from error
        schema = source.schema_arrow
        wanted = [field for field in (reader.reading.text_field, reader.reading.group_field) if field]
        tops = [field if field in schema.names else field.partition(".")[0] for field in wanted]
        yield from _documents(reader, schema, source.iter_batches(ROWS, columns=list(dict.fromkeys(tops))))


def arrow(reader: Reader) -> Iterator[Document]:
    """Raises ValueError for what is no Arrow file or stream, and as `_documents` does."""
    import pyarrow as pa

    with reader.open() as file:
        source = pa.BufferReader(file.read()) if reader.is_packed else pa.memory_map(str(reader.path))
    try:
        stream = pa.ipc.open_stream(source)
        schema, batches = stream.schema, iter(stream)
    except pa.ArrowInvalid:
        source.seek(0)
        try:
            whole = pa.ipc.open_file(source)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{reader.path} is not an Arrow file: {error}") from error
        schema, batches = whole.schema, (whole.get_batch(n) for n in range(whole.num_record_batches))
    yield from _documents(reader, schema, batches)


def _documents(reader: Reader, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Document]:
    """Raises ValueError for a column that is absent or holds no text."""
    import pyarrow.types as kinds

    field, group_field = reader.reading.text_field, reader.reading.group_field
    kind = _type_at(reader, schema, field, "--text-field")
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    texts = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_binary, kinds.is_large_binary)
    if not any(test(kind) for test in (*texts, kinds.is_null)):
        raise ValueError(
            f"{reader.path} has no text in its column {field!r}, which holds {kind}; its columns are "
            f"{', '.join(_names(schema))}; name one of strings with --text-field"
        )
    if group_field:
        _type_at(reader, schema, group_field, "--group-field")
    number = 0
    for batch in batches:
        groups = _column(batch, group_field).to_pylist() if group_field else [None] * batch.num_rows
        for text, group in zip(_column(batch, field).to_pylist(), groups, strict=True):
            number += 1
            if (found := reader.document(text, group, number)) is not None:
                yield found


def _type_at(reader: Reader, schema: pa.Schema, field: str, option: str) -> Any:
    import pyarrow as pa

    if field in schema.names:
        return schema.field(field).type
    kind: Any = pa.struct(list(schema))
    for name in field.split("."):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            raise no_field(reader.path, field, _names(schema), option)
        kind = kind.field(name).type
    return kind


def _names(fields: Iterable[Any], before: str = "") -> Iterator[str]:
    """The columns, dotted where they hold records."""
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type):
            yield from _names(field.type, f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}"


def _column(batch: pa.RecordBatch, field: str) -> Any:
    import pyarrow.compute as pc

    if field in batch.schema.names:
        return batch.column(field)
    top, *path = field.split(".")
    return pc.struct_field(batch.column(top), path)
