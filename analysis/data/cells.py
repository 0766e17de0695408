"""Cells as people write numbers: 70M, 37,500,000, 4,04, 50%, N/A; and those that are none.

A column is read as a whole, because only together do its cells tell a decimal comma from a
thousands comma (0,125 has no thousands, and between `;` a single comma is decimal). A blank cell
and the usual words for nothing are no value (NaN); any other cell that is no number is returned
with its row, so that it costs that row and not the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.data.points import Array

NOTHING = frozenset(("", "-", "--", "n/a", "na", "nan", "null", "none", "#n/a", "."))
INFINITE = {"inf": np.inf, "+inf": np.inf, "infinity": np.inf, "-inf": -np.inf, "-infinity": -np.inf}
SIZES = {"k": 1e3, "K": 1e3, "M": 1e6, "m": 1e6, "G": 1e9, "B": 1e9, "b": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Cells:
    """values: (n,), NaN where there is none. wrong: row -> the text that is no number. said: how
    the cells were read, where it is not as they stand. sized: rows whose cell has a size letter.
    """

    values: Array
    wrong: dict[int, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    sized: frozenset[int] = frozenset()


def parse(cells: Sequence[object], decimal_commas: bool = False) -> Cells:
    """Numbers of a column of texts. decimal_commas: a single comma is never a thousands comma."""
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    commas = [text.rstrip("%" + "".join(SIZES)).rstrip() for text in texts if "," in text]
    decimal = bool(commas) and all(map(COMMA.fullmatch, commas))
    decimal = decimal and (decimal_commas or not all(map(THOUSANDS.fullmatch, commas)))
    values, wrong, said, sized = np.full(len(texts), np.nan), {}, set(), set()
    for row, text in enumerate(texts):
        if text.lower() in NOTHING:
            continue
        found = _number(text, decimal)
        if found is None:
            wrong[row] = text
            continue
        values[row], how = found
        said |= how
        if text[-1] in SIZES:
            sized.add(row)
    return Cells(values, wrong, tuple(sorted(said)), frozenset(sized))


def is_plain(text: str) -> bool:
    """Whether a cell is a number as programs write it, or no value."""
    return text.lower() in NOTHING or text.lower() in INFINITE or PLAIN.fullmatch(text) is not None


def _number(text: str, decimal: bool) -> tuple[float, set[str]] | None:
    """A cell's value and how it was read, or None."""
    if text.lower() in INFINITE:
        return INFINITE[text.lower()], set()
    how, factor = set(), 1.0
    if text.endswith("%"):
        text, factor = text[:-1].strip(), 0.01
        how.add("% as hundredths")
    elif text[-1] in SIZES and len(text) > 1:
        factor = SIZES[text[-1]]
        how.add(f"{text[-1]} as {factor:g}")
        text = text[:-1].strip()
    if decimal and COMMA.fullmatch(text):
        text = text.replace(",", ".")
        how.add("decimal commas")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
        how.add("commas between thousands")
    return (float(text) * factor, how) if PLAIN.fullmatch(text) else None
