"""From columns to the numbers of a row: loss, active weights, density, unique and trained tokens.

Where a table lacks one of them it is told from others, and said: density from sparsity, active
weights from all of them or from compute and tokens (C = 6 N D), unique tokens from epochs. A name
that may mean all weights or the active ones is refused where there are sparse rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.data import units
from analysis.data.arrow import cells_of
from analysis.data.columns import COUNTS, DEFAULTS, EITHER, nearest, plain, size_of
from analysis.data.points import Array

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_COUNT = next(iter(COUNTS))  # what N is where nobody says
FLOPS = 6.0  # of a weight and a trained token
APART = 1.5  # factor between two numbers of one thing from which it is said


@dataclass
class Columns:
    """A table and which of its columns means what. said: units that were said. wrong: row -> why a
    cell of it is no number; notes: what was guessed. size: the role that active weights are told
    from.
    """

    table: pa.Table
    roles: Mapping[str, str]
    mapped: Mapping[str, str]
    said: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=lambda: {"id", "status"})
    size: str = ""

    def numbers(self, role: str) -> Array:
        """A role's column in plain units; a cell that is no number is NaN, and named in `wrong`.
        The letter of a cell (70M) goes before that of the column's name.
        """
        column = self.roles[role]
        self.used.add(role)
        found = cells_of(self.table, column)
        for how in found.said:
            self.notes.append(f"column {column!r} is read with {how}")
        for row, cell in found.wrong.items():
            self.wrong.setdefault(row, f"{role} is {cell!r}, no number")
        letter = self.said.get(role) or (size_of(column) if role in units.SIZED else "")
        bare = np.ones(len(found.values), dtype=bool)
        bare[list(found.sized)] = False
        if letter not in ("", "1") and np.isfinite(found.values[bare]).any():
            self.notes.append(f"column {column!r} is read in {letter} ({units.factor(letter):g})")
        return np.where(bare, found.values * units.factor(letter), found.values)

    def has(self, role: str) -> bool:
        return role in self.roles

    def loss(self) -> Array:
        if self.has("loss"):
            unit = self.said.get("loss", "nats")
            values = cells_only(self, "loss")
        else:
            unit = "bits" if self.has("bits") else "perplexity"
            values = self.numbers(unit)
        if unit != "nats":
            self.notes.append(f"losses are read as {unit} per token" if unit == "bits" else "losses are perplexities")
        return units.nats(values, unit)

    def density(self) -> Array:
        if self.has("density"):
            return self._share(self.numbers("density"), "density")
        if self.has("sparsity"):
            self.notes.append(f"density is 1 - {self.roles['sparsity']!r}")
            return 1.0 - self._share(self.numbers("sparsity"), "sparsity")
        self.notes.append("no density column: every row is taken as dense")
        return np.ones(self.table.num_rows)

    def _share(self, values: Array, role: str) -> Array:
        """Percents are told by a column that goes up to 100."""
        finite = values[np.isfinite(values)]
        if len(finite) and finite.max() > 1.0 and ((role == "density" and finite.max() == 100.0 and finite.min() >= 1.0)
                                                   or (role == "sparsity" and 1.0 < finite.max() < 100.0)):  # fmt: skip
            self.notes.append(f"column {self.roles[role]!r} is read in percent")
            return values / 100.0
        return values

    def active(self, count: str, density: Array, tokens: Array) -> tuple[Array, str]:
        """N of every row, and the name of the count that it is."""
        if count not in COUNTS:
            raise ValueError(
                f"unknown parameter count {count!r}{nearest(count, COUNTS)}; counts are {', '.join(COUNTS)}"
            )
        said = {"active", "total"} & set(self.mapped)
        if not said and set(COUNTS[count]) <= set(self.table.column_names):
            total = sum((cells_of(self.table, column).values for column in COUNTS[count]), np.zeros(len(density)))
            return total * density if count == "published" else total, count
        self._note_unused(count)
        if self.has("active") and said != {"total"}:
            self.size, column = "active", self.roles["active"]
            self._check_meaning(column, density)
            return self.numbers("active"), f"column {column!r}"
        if self.has("total"):
            self.size, column = "total", self.roles["total"]
            if not np.allclose(density, 1.0, equal_nan=True):
                self.notes.append(f"active weights are {column!r} times density")
            return self.numbers("total") * density, f"column {column!r} times density"
        if self.has("compute"):
            self.size = "compute"
            self.notes.append(f"active weights are {self.roles['compute']!r} / (6 {self.roles['tokens']!r})")
            return self.numbers("compute") / (FLOPS * tokens), f"column {self.roles['compute']!r} / 6 D"
        raise ValueError(
            f"the table lacks {', '.join(COUNTS[count])} for the count {count!r}; choose another count "
            f"or map one, for example --columns active=NAME"
        )

    def _note_unused(self, count: str) -> None:
        """Say it where a count was asked for and N is told otherwise."""
        if count != DEFAULT_COUNT:
            missing = [name for name in COUNTS[count] if name not in self.table.column_names]
            why = f"the table lacks {', '.join(missing)}" if missing else "the columns that were mapped say what N is"
            self.notes.append(f"the count {count!r} is not used: {why}")

    def _check_meaning(self, column: str, density: Array) -> None:
        """Refuse a name that means all weights or the active ones where that makes a difference."""
        either = column in EITHER or plain(column) in map(str.lower, EITHER)
        if either and "active" not in self.mapped and (density[np.isfinite(density)] < 1.0).any():
            raise ValueError(
                f"column {column!r} beside a density may be all weights or the active ones; say which: "
                f"--columns total={column} or --columns active={column}"
            )

    def unique(self, tokens: Array) -> Array:
        if self.has("unique"):
            return self.numbers("unique")
        if self.has("epochs"):
            self.notes.append("no unique-token column: unique tokens are tokens / epochs")
            return tokens / self.numbers("epochs")
        self.notes.append("no unique-token and no epoch column: every row is taken as one epoch")
        return tokens.copy()

    def other_epochs(self, unique: Array, tokens: Array, rows: NDArray[np.int64]) -> list[str]:
        """What is to be said where a table's own epochs, which are not used beside unique tokens,
        are not those of its tokens.
        """
        if not (self.has("unique") and self.has("epochs")):
            return []
        try:
            said = cells_of(self.table, self.roles["epochs"]).values[rows]
        except ValueError:  # of a column that is not used
            return []
        epochs = tokens[rows] / unique[rows]
        apart = np.flatnonzero((said > 0) & (np.maximum(said / epochs, epochs / said) > APART))
        if not len(apart):
            return []
        first = apart[0]
        return [
            f"column {self.roles['epochs']!r} is not used: in {len(apart)} of {len(rows)} rows it is not tokens / "
            f"unique tokens ({said[first]:.4g} where these are {epochs[first]:.4g}); check what the three columns mean"
        ]

    def guessed(self) -> list[str]:
        """Which columns were taken for what, where the name is not the role's own."""
        named = [
            f"{role} is {column!r}"
            for role, column in self.roles.items()
            if role in self.used and role not in self.mapped and column not in DEFAULTS[role][:1] and column != role
        ]
        return [f"columns taken: {', '.join(named)}"] if named else []


def cells_only(columns: Columns, role: str) -> Array:
    """A role's numbers as they stand, whatever unit was said of them."""
    plainly = Columns(columns.table, columns.roles, columns.mapped, {}, columns.notes, columns.wrong, columns.used)
    return plainly.numbers(role)


def coordinates(columns: Columns, count: str) -> tuple[dict[str, Array], str]:
    """loss, active, density, unique and tokens of every row, NaN where there is none; and what N
    is.

    Raises ValueError for a column that is no number in any row, for numbers of another unit, and
    for a name that may mean two things.
    """
    values = {"loss": columns.loss(), "tokens": columns.numbers("tokens"), "density": columns.density()}
    values["unique"] = columns.unique(values["tokens"])
    values["active"], counted = columns.active(count, values["density"], values["tokens"])
    units.check(values, columns.roles, columns.said, columns.size)
    return values, counted
