"""One law describes one way to train sparsely: of a table of several, one method's rows are kept.

Density says which rows are sparse, whatever a table calls the method of its dense ones (dense,
none, nothing at all). Dense rows are kept whichever method is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.data.arrow import text
from analysis.data.points import Array

if TYPE_CHECKING:
    import pyarrow as pa

OWN = "smet"  # of methods with as many rows each, the project's own is kept


def keep_one_method(
    table: pa.Table,
    roles: Mapping[str, str],
    method: str | None,
    density: Array,
    reasons: NDArray[np.object_],
    notes: list[str],
) -> None:
    """Exclude the sparse rows of all methods but one: `method`, or the most frequent. 'dense'
    excludes all of them.

    Raises ValueError for a method that no usable sparse row has.
    """
    if "method" not in roles:
        if method is not None:
            raise ValueError(f"no column says the method, so {method!r} cannot be kept; map one: --columns method=NAME")
        return
    methods, below = text(table, roles["method"]).astype(str), density < 1
    dense = np.unique(methods[~below & (reasons == "")])
    sparse, frequency = np.unique(methods[below & (reasons == "")], return_counts=True)
    if method not in (None, "dense", *sparse):
        raise ValueError(
            f"no usable row has method {method!r} and a density below 1; sparse methods are "
            f"{_listed(sparse)}, and dense rows are always kept"
        )
    if len(dense) > 1:
        notes.append(f"the dense rows mix methods ({_listed(dense)}): their losses may not compare")
    if method is None and len(sparse) > 1:
        method = str(min(zip(-frequency, sparse != OWN, sparse, strict=True))[2])
        notes.append(f"the table mixes sparse methods ({_listed(sparse)}); the law is {method!r}'s")
    if method is not None:
        for row in np.flatnonzero(below & (methods != method) & (reasons == "")):
            reasons[row] = f"method is {methods[row]}, not {method}"


def _listed(methods: NDArray[np.str_]) -> str:
    return ", ".join(map(str, methods)) or "none"
