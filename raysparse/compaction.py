"""The journal of results as one table: `results.parquet`, and how a reader knows what it holds.

A journal of a file a row cannot be torn, but reading it back from an object store is a request a
row. The table is the journal in one file. Its own metadata names the files of the journal that it
holds with their stamps, so a listing of the journal tells which rows are newer than the table, and
only those are read one by one. The journal stays: a table that is killed, lost or of an older
schema costs time and nothing else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raysparse.files import Folder, Stamp
from raysparse.run_folder import TABLE

if TYPE_CHECKING:
    import pyarrow as pa

HELD, FORMAT = b"raysparse.journal", 1
UNKNOWN = Stamp(-1, -1)  # of no file
# Nanoseconds in which a storage's clock may stand still, on a local disk and on an object store.
TICK = {True: 50_000_000, False: 2_000_000_000}


def read(folder: Folder, schema: pa.Schema) -> dict[str, tuple[Stamp, dict[str, Any]]]:
    """The rows of the table, by the name of their file in the journal, each with the stamp of that
    file, or `UNKNOWN` for one that must be looked at again.

    Empty without a table, and for a damaged one or one of another schema: the journal has it all.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(folder.read(TABLE))).read(use_threads=False)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        return {}
    about = json.loads((table.schema.metadata or {}).get(HELD, b"{}"))
    if about.get("format") != FORMAT or not table.schema.equals(schema):
        return {}
    stamps: dict[str, list[int]] = about["rows"]
    named = ((f"{row['trial_id']}.json", row) for row in table.to_pylist())
    return {name: (Stamp(*stamps[name]) if name in stamps else UNKNOWN, row) for name, row in named}


def write(folder: Folder, table: pa.Table, stamps: Mapping[str, Stamp]) -> None:
    """Write the table of a journal whose files have these stamps.

    A row of the last moment is in the table, but not named as held: written again in the same
    moment it could have the same stamp.
    """
    import pyarrow.parquet as pq

    latest = max((at.written_at for at in stamps.values()), default=0) - TICK[folder.is_local]
    held = {name: [at.written_at, at.size] for name, at in stamps.items() if at.written_at < latest}
    about = json.dumps({"format": FORMAT, "rows": held})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({HELD: about}), buffer)
    folder.write(TABLE, buffer.getvalue())
