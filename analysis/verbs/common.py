"""What every verb of the command line starts and ends with: the table, the law, the way out."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from analysis.data.files import dumps
from analysis.data.table import Runs, read_table
from analysis.fit.select import choose_law
from analysis.laws import Law, named

Verb = Callable[[Namespace], str]
LISTED = 10  # excluded rows that are named


def runs_of(options: Namespace) -> Runs:
    return read_table(
        options.table, options.columns, options.count, options.method, options.settings,
        units=options.units, where=options.where,
    )  # fmt: skip


def runs_without_settings(options: Namespace) -> Runs:
    """The rows for a verb that fits laws to all of them as they stand; settings that differ are
    noted.
    """
    runs = runs_of(options)
    if not runs.settings:
        return runs
    told = f"rows differ in {', '.join(runs.settings)}, which laws ignore; optimum and report take it into account"
    return replace(runs, notes=(*runs.notes, told))


def law_of(options: Namespace, runs: Runs) -> Law:
    return choose_law(runs, options.seed, options.delta) if options.law == "auto" else named(options.law)


def require_numbers(asked: str, **values: float) -> None:
    """Raise ValueError when an answer is no number: it would read like one that nobody checked."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{asked} has no answer: its {name} is {value:g}; the table may be in other units (--units), or too "
                f"small for the law, see `python -m analysis fit`"
            )


def out(options: Namespace, value: dict[str, Any], lines: list[str], runs: Runs | None = None) -> str:
    """The answer as it is printed. runs: the table, whose excluded rows and notes are told too."""
    if not options.json:
        return "\n".join(lines if runs is None else [*lines, *table_notes(runs)])
    if runs is None:
        return dumps(value)
    return dumps(value | {"excluded": [asdict(row) for row in runs.excluded], "notes": runs.notes})


def table_notes(runs: Runs) -> list[str]:
    """What was excluded from the table, and what was assumed of it."""
    excluded = [f"excluded {row.row}: {row.reason}" for row in runs.excluded[:LISTED]]
    more = [f"... and {len(runs.excluded) - LISTED} more excluded"] if len(runs.excluded) > LISTED else []
    return [*excluded, *more, *(f"note: {note}" for note in runs.notes)]
