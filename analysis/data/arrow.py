"""Columns of an Arrow table as arrays: numbers, texts, and integers that tell values apart.

A file's ending says how it is read. What a column means is `columns`' and `table`'s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.data.points import Array

if TYPE_CHECKING:
    import pyarrow as pa


def load(source: pa.Table | Path | str) -> pa.Table:
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    path = Path(source)
    if not path.exists():
        raise ValueError(f"no table at {path}; give a .parquet or .csv file")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path)
    if path.suffix == ".csv":
        from pyarrow import csv

        return csv.read_csv(path)
    raise ValueError(f"cannot read {path.name!r}: expected a name ending in .parquet or .csv")


def floats(table: pa.Table, column: str) -> Array:
    """A numeric column as float64, NaN for nulls. Raises ValueError for a column that holds
    text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = pc.cast(table[column], pa.float64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"column {column!r} is not numeric ({error}); map another one") from error
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=float)


def codes(table: pa.Table, column: str) -> NDArray[np.int64]:
    """A column of any type as integers that are equal where the values are equal; nulls are one
    value.
    """
    encoded = table[column].combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)


def text(table: pa.Table, column: str) -> NDArray[np.object_]:
    return np.array([str(value) for value in table[column].to_pylist()], dtype=object)
