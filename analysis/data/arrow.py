"""Columns of an Arrow table as arrays: numbers, texts, and integers that tell values apart.

What a column means is `columns`' and `coordinates`'; where a table lies is `source`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.data.cells import Cells, parse
from analysis.data.points import Array

if TYPE_CHECKING:
    import pyarrow as pa


DECIMAL = {"comma": "decimal"}  # metadata of a table whose single commas are decimal


def floats(table: pa.Table, column: str) -> Array:
    """A column as float64, NaN for what is no number. Raises ValueError for one without numbers."""
    return cells_of(table, column).values


def cells_of(table: pa.Table, column: str) -> Cells:
    """The numbers of a column, NaN for nulls, and its cells that are none.

    Raises ValueError for a column that holds no number at all.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = table.schema.field(column).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        comma = (table.schema.metadata or {}).get(b"comma", b"").decode()
        found = parse(table[column].to_pylist(), comma == DECIMAL["comma"])
        if found.wrong and not np.isfinite(found.values).any():
            first = next(iter(found.wrong.values()))
            raise ValueError(f"column {column!r} is not numeric (it holds {first!r}); map another one")
        return found
    try:
        values = pc.cast(table[column], pa.float64(), safe=False)  # whole numbers above 2**53 lose their last digits
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {column!r} is not numeric ({error}); map another one") from error
    return Cells(np.asarray(values.to_numpy(zero_copy_only=False), dtype=float))


def codes(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of any type as integers that are equal where the values are equal; nulls are one
    value.
    """
    encoded = table[column].combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def text(table: pa.Table, column: str) -> NDArray[np.object_]:
    return np.array([str(value) for value in table[column].to_pylist()], dtype=object)
