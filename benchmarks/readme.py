"""The README's tables of measurements, made from benchmarks/results: no figure in them can differ
from the row it was measured in.

`python -m benchmarks.readme` writes them between the README's marks; a test holds that they are up
to date. The words around them are written by hand. Left out: choosing what is flattering. A table
shows every row of its kind, those that dense training wins too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.record import RESULTS

README = RESULTS.parent.parent / "README.md"
MARKS = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
DENSITIES = (0.5, 0.25, 0.125, 0.0625)

Row = dict[str, Any]


def rows_of(result: str) -> list[Row]:
    found: list[Row] = json.loads((RESULTS / f"{result}.json").read_text())["rows"]
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def memory() -> str:
    designs = [row for row in rows_of("memory") if "design" in row]
    head = ["design", *(f"d = {d}" for d in DENSITIES)]
    return table(head, [[row["design"], *(f"{row[f'd = {d}']:.2f}" for d in DENSITIES)] for row in designs])


def transients() -> str:
    rows = [row for row in rows_of("memory") if "optimizer step, bytes per active" in row]
    kinds = list(dict.fromkeys((row["values"], row["moments"]) for row in rows))
    lines = []
    for what in ("optimizer step", "topology update"):
        for values, moments in kinds:
            mine = {row["density"]: row for row in rows if (row["values"], row["moments"]) == (values, moments)}
            cells = [f"{mine[d][f'{what}, bytes per active']:.2f}" for d in DENSITIES]
            lines.append([f"{what}, {values} weights, {moments} moments", *cells])
    return table(["besides, at its peak", *(f"d = {d}" for d in DENSITIES)], lines)


def steps() -> str:
    """How many times faster than the dense step; below 1 dense wins."""
    rows = [row for row in rows_of("step-cpu") if row["what"] == "whole step"]
    kinds = list(dict.fromkeys((row["dtype"], row["hidden"], row["layout"]) for row in rows))
    lines = []
    for dtype, hidden, layout in kinds:
        mine = {
            row["density"]: row
            for row in rows
            if (row["dtype"], row["hidden"], row["layout"]) == (dtype, hidden, layout)
        }
        cells = [f"{mine[d]['dense / sparse']:.2f}" if d in mine else "" for d in DENSITIES]
        lines.append([layout, dtype, str(hidden), *cells])
    return table(["layout", "dtype", "hidden", *(f"d = {d}" for d in DENSITIES)], lines)


def optimizer() -> str:
    rows = [row for row in rows_of("step-cpu") if row["what"] == "SMET-Adam"]
    lines = [
        [f"{row['weights'] / 1e6:.0f} million", str(row["threads"]), f"{row['separate / ours']:.1f}"] for row in rows
    ]
    return table(["active weights", "threads", "separate operations / ours"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "memory": memory,
    "transients": transients,
    "steps": steps,
    "optimizer": optimizer,
}


def rendered(text: str) -> str:
    """The text with what lies between its marks made anew. Raises KeyError for a table that there
    is not.
    """
    return MARKS.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)


def marked(text: str) -> Iterator[str]:
    """Names of the tables that the text shows."""
    return (m[2] for m in MARKS.finditer(text))


if __name__ == "__main__":
    README.write_text(rendered(README.read_text()))
