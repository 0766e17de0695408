"""A table of runs in: every row is either usable or excluded by name, with its reason.

Nothing is dropped in silence and nothing is repaired in silence. A row that cannot enter a fit
(pruned, diverged, not finite, not positive, a duplicate) is listed in `Runs.excluded` by its id;
every assumption (no density column: dense) is listed in `Runs.notes`. Rows that differ only in seed
are replicates: kept, and given one `group`, which the bootstrap resamples as a whole. Rows that
differ in a setting (weight decay, rate) are variants: kept, with the setting in `Runs.settings`.
Fitting is not done here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.data.arrow import codes, floats, text
from analysis.data.columns import DATA, DEFAULTS, MIXTURES, SPARSE_MIXTURES, alike, resolve
from analysis.data.coordinates import Columns
from analysis.data.coordinates import coordinates as coordinates_of
from analysis.data.methods import keep_one_method
from analysis.data.points import Array, Points
from analysis.data.settings import Experiment, duplicates, groups_of, settings_of, unexplained
from analysis.data.source import load

if TYPE_CHECKING:
    import pyarrow as pa

COORDINATES = ("active", "density", "unique", "tokens")
UNMEASURED = "loss of nothing"  # name of the column that stands for losses not yet measured
STEPS = ("_step",)  # of a history
COMPLETED = frozenset(("completed", "complete", "finished", "done", "success", "succeeded", "ok"))  # status words
EXTRAS = ("flops_active", "flops_executed", "seconds")


@dataclass(frozen=True)
class Excluded:
    """One row that does not enter a fit: its id (or `row 17`) and why."""

    row: str
    reason: str


class NoUsableRowError(ValueError):
    """Every row of a table was excluded; the message lists the first reasons."""


@dataclass(frozen=True)
class Runs:
    """The usable rows of a table: n points with their loss (nats per token).

    ids: (n,) row ids. group: (n,) integers; replicates of one specification share one. extras:
    measured columns (FLOPs, seconds), NaN where unknown. model: (n,) names of sizes, for pictures.
    count: the parameter count used as N. excluded and notes: see the file's opening. settings: name
    -> (n,) values of every numeric setting that varies (weight decay, rate, dropout, ...).
    """

    points: Points
    loss: Array
    ids: NDArray[np.object_]
    group: NDArray[np.int64]
    extras: Mapping[str, Array] = field(default_factory=dict)
    model: NDArray[np.object_] | None = None
    count: str = "active"
    excluded: tuple[Excluded, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.loss)

    @cached_property
    def log_loss(self) -> Array:
        return np.log(self.loss)

    def take(self, rows: ArrayLike) -> Runs:
        """The runs at `rows` (indices or a boolean mask); exclusions and notes stay with the whole
        table.
        """
        index = np.asarray(rows)
        chosen = np.flatnonzero(index) if index.dtype == bool else index
        return replace(
            self,
            points=self.points.take(chosen),
            loss=self.loss[chosen],
            ids=self.ids[chosen],
            group=self.group[chosen],
            extras={name: values[chosen] for name, values in self.extras.items()},
            model=None if self.model is None else self.model[chosen],
            settings={name: values[chosen] for name, values in self.settings.items()},
        )

    @classmethod
    def from_arrays(
        cls,
        active: ArrayLike,
        density: ArrayLike,
        unique: ArrayLike,
        tokens: ArrayLike,
        loss: ArrayLike,
        settings: Mapping[str, ArrayLike] | None = None,
    ) -> Runs:
        """Runs from plain arrays, for notebooks and simulations; rows at the same point and
        settings are replicates.

        Raises ValueError where `Points` does, or for a loss that is not finite and positive.
        """
        points = Points.at(active, density, unique, tokens)
        losses = np.broadcast_to(np.asarray(loss, dtype=float), (len(points),)).copy()
        bad = ~(np.isfinite(losses) & (losses > 0))
        if bad.any():
            where = int(np.argmax(bad))
            raise ValueError(f"loss[{where}] is {float(losses[where])!r}; it must be finite and positive")
        given = {
            name: np.broadcast_to(np.asarray(values, dtype=float), (len(points),)).copy()
            for name, values in (settings or {}).items()
        }
        keys = np.stack([points.active, points.density, points.unique, points.tokens, *given.values()], axis=1)
        ids = np.array([f"row {i}" for i in range(len(points))], dtype=object)
        return cls(points, losses, ids, groups_of(keys, []), settings=given)


def read_table(
    source: pa.Table | Path | str,
    columns: Mapping[str, str] | None = None,
    count: str = "active_non_embedding",
    method: str | None = None,
    settings: Sequence[str] = (),
    loss: bool = True,
    *,
    units: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> Runs:
    """Read a sweep's results, or a table of others, into `Runs`.

    source: an Arrow table, a run folder, a file or a URI (`source.FORMS`). columns: role -> column,
    see `columns.DEFAULTS`. count: which parameter count is N (a key of `columns.COUNTS`), of tables
    that store counts by kind. method: the sparse method to keep beside the dense rows; None keeps
    the most frequent one. settings: columns of a foreign table that are settings beside the known
    names. loss: False for points that were not trained: every loss is then 1. units: role -> unit,
    where it is not nats, weights and tokens. where: column -> value of the rows to read.

    Raises ValueError for an unreadable source, wrong column names, a mixture of data sets and
    numbers of another unit; NoUsableRowError (a ValueError) if no row is usable.
    """
    table, notes = load(source, where or {})
    if not loss:
        table, columns = _unmeasured(table), {**(columns or {}), "loss": UNMEASURED}
    roles = resolve(table.column_names, columns or {})
    known = Columns(table, roles, columns or {}, units or {}, notes)
    coordinates, counted = coordinates_of(known, count)
    ids = _ids(table, roles)
    same = Experiment.of(table, settings)
    reasons = _reasons(table, roles, coordinates, known.wrong)
    _mark_earlier_steps(table, ids, reasons)
    keep_one_method(table, roles, method, coordinates["density"], reasons, notes)
    _mark_duplicates(table, same, roles, coordinates, reasons, ids)
    usable = np.flatnonzero(reasons == "")
    excluded = tuple(Excluded(str(ids[i]), str(reasons[i])) for i in np.flatnonzero(reasons != ""))
    _require_rows(table.num_rows, usable, excluded)
    _refuse_several_data_sets(table, usable)
    _note_mixtures(table, same, usable, coordinates["density"], notes)
    points = Points(*(coordinates[name][usable] for name in COORDINATES))
    group = groups_of(_keys(coordinates)[usable], [codes(table, name)[usable] for name in same.same])
    found = settings_of(table, same, usable, points, notes)
    extras = {name: known.numbers(name)[usable] for name in EXTRAS if name in roles}
    if not same.own:
        notes += [*known.guessed(), *known.other_epochs(coordinates["unique"], coordinates["tokens"], usable)]
        notes += filter(None, [unexplained(table, roles, group, usable, same.same)])
    return Runs(
        points,
        coordinates["loss"][usable],
        ids[usable],
        group,
        extras,
        text(table, roles["model"])[usable] if "model" in roles else None,
        counted,
        excluded,
        tuple(notes),
        found,
    )


def _require_rows(rows: int, usable: NDArray[np.int64], excluded: Sequence[Excluded]) -> None:
    if not len(usable):
        first = "; ".join(f"{row.row}: {row.reason}" for row in excluded[:5]) or "the table is empty"
        raise NoUsableRowError(f"no usable row among {rows} ({first}); a fit needs completed rows with a finite loss")


def _unmeasured(table: pa.Table) -> pa.Table:
    """The table with a loss of 1 in every row, and nothing that says whether a row was trained."""
    import pyarrow as pa

    kept = table.select([name for name in table.column_names if name not in DEFAULTS["status"]])
    return kept.append_column(UNMEASURED, pa.array(np.ones(table.num_rows)))


def _keys(coordinates: Mapping[str, Array]) -> Array:
    return np.stack([coordinates[name] for name in COORDINATES], axis=1)


def _mark_duplicates(
    table: pa.Table,
    same: Experiment,
    roles: Mapping[str, str],
    coordinates: Mapping[str, Array],
    reasons: NDArray[np.object_],
    ids: NDArray[np.object_],
) -> None:
    """Name every row that repeats an earlier one."""
    apart = [roles[name] for name in ("seed", "loss") if name in roles]
    repeats = duplicates(table, same, apart, _keys(coordinates), np.flatnonzero(reasons == ""))
    for row, original in repeats.items():
        reasons[row] = f"duplicate of {ids[original]}"


def _ids(table: pa.Table, roles: Mapping[str, str]) -> NDArray[np.object_]:
    if "id" in roles:
        return text(table, roles["id"])
    return np.array([f"row {i}" for i in range(table.num_rows)], dtype=object)


def _reasons(
    table: pa.Table, roles: Mapping[str, str], values: Mapping[str, Array], wrong: Mapping[int, str]
) -> NDArray[np.object_]:
    """(n,) why a row cannot enter a fit; empty where it can. wrong: rows with a cell that is no
    number.
    """
    reasons = np.full(table.num_rows, "", dtype=object)
    for row, why in wrong.items():
        reasons[row] = why
    for name, array in values.items():
        for bad, what in ((~np.isfinite(array), "not finite"), (array <= 0, "not positive")):
            reasons[bad & (reasons == "")] = f"{name} is {what}"
    reasons[(values["density"] > 1) & (reasons == "")] = "density is above 1"
    if "status" in roles:
        status = text(table, roles["status"])
        for row in range(len(status)):
            if status[row].lower() not in COMPLETED:
                reasons[row] = f"status is {status[row]}"
    return reasons


def _mark_earlier_steps(table: pa.Table, ids: NDArray[np.object_], reasons: NDArray[np.object_]) -> None:
    """Of a history, where a run has a row at every step, only the last usable one counts."""
    column = next((name for name in STEPS if name in table.column_names), "")
    if not column:
        return
    steps = floats(table, column)
    last: dict[str, float] = {}
    for row in np.flatnonzero(reasons == ""):
        last[ids[row]] = max(last.get(ids[row], -np.inf), steps[row])
    for row in np.flatnonzero(reasons == ""):
        if steps[row] < last[ids[row]]:
            reasons[row] = f"an earlier step of the run, {steps[row]:g} of {last[ids[row]]:g}"


def _refuse_several_data_sets(table: pa.Table, usable: NDArray[np.int64]) -> None:
    """Losses of different texts or tokenizers are never pooled."""
    for column in alike(DATA, table.column_names):
        values = sorted({str(value) for value in table[column].take(usable).to_pylist() if value not in (None, "")})
        if len(values) > 1:
            listed = ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
            raise ValueError(
                f"the table mixes {len(values)} values of {column!r} ({listed}), whose losses do not compare; choose "
                f"one, for example --where {column}={values[0]}"
            )


def _note_mixtures(
    table: pa.Table, same: Experiment, usable: NDArray[np.int64], density: Array, notes: list[str]
) -> None:
    """Losses of different texts, tokenizers or ways to train do not compare; the reader is told,
    and may know better.
    """
    sparse = usable[density[usable] < 1]  # how sparsity is done says nothing of a dense run
    of_sparse = {*alike(SPARSE_MIXTURES, table.column_names), *same.sparse}
    for column in dict.fromkeys([*alike((*MIXTURES, *SPARSE_MIXTURES), table.column_names), *same.texts]):
        rows = sparse if column in of_sparse else usable
        if len(np.unique(codes(table, column)[rows])) > 1:
            notes.append(f"the table mixes values of {column!r}: their losses may not compare")
