"""Which rows are the same experiment, and in which settings the others differ.

A sweep's own table marks every column that was made from a trial's spec with its field (Arrow
metadata `field`), and `replicate_of` is the trial without its seed; so a field that is added to the
spec is a setting here with no second edit. Foreign tables are told by the hand-kept names of
`columns`, or by the names that the reader is given. A number that only changes with a coordinate (a
rate that the ladder of sizes prescribes) cannot be told from it, and is no setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.data.arrow import codes, floats
from analysis.data.columns import MEASURED, NOT_SETTINGS, SETTING_COLUMNS, SPEC_COLUMNS, alike, nearest, plain
from analysis.data.points import Array, Points

if TYPE_CHECKING:
    import pyarrow as pa

REPLICATE = "replicate_of"
STRAIGHT = 0.02  # of its range: a setting this near to a power of a coordinate follows from it
FEW = 4  # levels that a power law of a coordinate is judged on at least


@dataclass(frozen=True)
class Experiment:
    """What makes rows one experiment: columns whose codes are equal among replicates, columns that
    may be settings, whether the table is a sweep's own, and its settings that are words (those of
    sparse runs apart): a model of numbers cannot take them in, so that they must not vary.
    """

    same: tuple[str, ...]
    candidates: tuple[str, ...]
    own: bool
    texts: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: pa.Table, named: Sequence[str] = ()) -> Experiment:
        """named: columns that are settings in any case.

        Raises ValueError for a named column that the table lacks.
        """
        import pyarrow.types as kinds

        for name in named:
            if name not in table.column_names:
                raise ValueError(
                    f"the table has no column {name!r} (given as a setting){nearest(name, table.column_names)}; "
                    f"columns are {', '.join(table.column_names)}"
                )
        fields = {f.name: f.metadata[b"field"].decode() for f in table.schema if b"field" in (f.metadata or {})}
        found = [name for name, path in fields.items() if path not in NOT_SETTINGS]
        if not fields:
            found = alike(SETTING_COLUMNS, table.column_names)
        types = {f.name: f.type for f in table.schema}
        numeric = [name for name in found if not kinds.is_string(types[name]) and not kinds.is_nested(types[name])]
        texts = tuple(name for name in fields if name in found and name not in numeric)
        sparse = tuple(name for name in texts if fields[name].startswith("sparsity."))
        candidates = tuple(dict.fromkeys([*named, *numeric]))
        if REPLICATE in table.column_names and table[REPLICATE].null_count == 0:
            return cls((REPLICATE,), candidates, True, texts, sparse)
        kept = [*fields, *alike((*SPEC_COLUMNS, *SETTING_COLUMNS), table.column_names), *named]
        return cls(tuple(name for name in dict.fromkeys(kept) if name != "seed"), candidates, False, texts, sparse)


def groups_of(keys: Array, coded: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(n,) group numbers: equal for rows that agree in every key column and every code."""
    order = np.lexsort([*coded, *keys.T])
    columns = np.column_stack([keys, *coded])[order]
    starts = np.concatenate([[False], np.any(columns[1:] != columns[:-1], axis=1)]) if len(order) else np.zeros(0, bool)
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = np.cumsum(starts)
    return groups


def duplicates(table: pa.Table, same: Experiment, apart: Sequence[str], keys: Array, usable: Array) -> dict[int, int]:
    """Row -> the earlier row that it repeats, among the `usable` ones.

    A duplicate is equal in everything, loss included: in the experiment, the seed and the loss
    (`apart`) where the table is a sweep's own, in every column but its name elsewhere.
    """
    if not len(usable):
        return {}
    names = [*same.same, *apart]
    if not same.own:
        names = [name for name in table.column_names if name not in MEASURED and _plain(table, name)]
    coded = [codes(table, name)[usable] for name in names]
    groups = groups_of(keys[usable], coded)
    original = np.unique(groups, return_index=True)[1][groups]
    return {int(usable[row]): int(usable[original[row]]) for row in np.flatnonzero(original != np.arange(len(usable)))}


def settings_of(table: pa.Table, same: Experiment, usable: Array, points: Points, notes: list[str]) -> dict[str, Array]:
    """Name -> (n,) values of every setting that varies among the usable rows and is told apart
    from the coordinates. Why another one is not among them is noted.
    """
    found: dict[str, Array] = {}
    for name in same.candidates:
        values = floats(table, name)[usable]
        if not np.isfinite(values).all():
            missing = int((~np.isfinite(values)).sum())
            if missing < len(values):
                notes.append(f"{name!r} is no setting here: {missing} of {len(values)} usable rows have no value")
        elif len(np.unique(values)) > 1:
            leader = _leader(values, points)
            twin = next((other for other in found if plain(other) == plain(name) and all(found[other] == values)), "")
            if twin:
                notes.append(f"{name!r} repeats {twin!r}, which is the setting")
            elif leader:
                notes.append(f"{name!r} only changes with {leader}: the rows do not tell them apart")
            else:
                found[name] = values
    return found


def _leader(values: Array, points: Points) -> str:
    """The coordinate that a setting follows: one value at each of its levels, or a power of it."""
    epochs = points.log_tokens - points.log_unique
    logs = {
        "active": points.log_active, "density": points.log_density, "unique tokens": points.log_unique,
        "tokens": points.log_tokens, "epochs": np.round(epochs, 9),
    }  # fmt: skip
    shape = points.log_active + 0.0
    pairs = {"active and density": (shape, points.log_density), "unique tokens and epochs": (points.log_unique, epochs)}
    for name, columns in {**{name: (log,) for name, log in logs.items()}, **pairs}.items():
        level = np.unique(np.column_stack(columns), axis=0, return_inverse=True)[1].ravel()
        if _repeats(level, values, points):
            return name
    if (values > 0).all():
        for name, log in logs.items():
            if len(np.unique(log)) >= FEW and _straight(log, np.log(values)):
                return name
    return ""


def _repeats(level: NDArray[np.int64], values: Array, points: Points) -> bool:
    """Whether a setting has one value at each level, and levels of several points say so: of the
    points that lack its most common value at least half share their level. A search that never
    meets a level twice would otherwise seem to prescribe every setting.
    """
    where = np.column_stack([points.log_active, points.log_density, points.log_unique, points.log_tokens])
    each = np.unique(np.column_stack([level, values, where]), axis=0)[:, :2]  # one row a point
    pairs = np.unique(each, axis=0)
    if len(pairs) > level.max() + 1 or level.max() + 1 > len(values) / 2:
        return False
    known, counts = np.unique(each[:, 1], return_counts=True)
    rare = each[each[:, 1] != known[counts.argmax()]]
    crowd = np.unique(rare[:, 0], return_counts=True)[1]
    return bool(2 * crowd[crowd > 1].sum() >= crowd.sum())


def _straight(log: Array, values: Array) -> bool:
    line = np.polynomial.Polynomial.fit(log, values, 1)
    return bool(np.abs(values - line(log)).max() <= STRAIGHT * np.ptp(values))


def unexplained(table: pa.Table, roles: Mapping[str, str], group: Array, usable: Array, settings: Sequence[str]) -> str:
    """A note that names columns in which a foreign table's replicates differ; they may be
    settings.
    """
    import pyarrow.types as kinds

    known = {*roles.values(), *settings, *MEASURED}
    names = [
        f.name for f in table.schema if f.name not in known and (kinds.is_integer(f.type) or kinds.is_floating(f.type))
    ]
    differing = [
        name
        for name in names
        if len(np.unique(np.column_stack([group, codes(table, name)[usable]]), axis=0)) > group.max() + 1
    ]
    if not differing:
        return ""
    listed = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
    return f"rows taken as replicates differ in {listed}; name those among them that are settings"


def _plain(table: pa.Table, name: str) -> bool:
    """Whether a column's values can be compared: lists and records cannot."""
    import pyarrow.types as kinds

    return not kinds.is_nested(table.schema.field(name).type)
