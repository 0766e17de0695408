"""Units of a foreign table: those that were said, those that a column's name says, and numbers that
can be no tokens, weights or nats.

A loss may be in nats, in bits or a perplexity; sizes may be in thousands to billions. Nothing is
guessed from values: what looks wrong is refused with the unit that would explain it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.data.cells import SIZES
from analysis.data.columns import nearest
from analysis.data.points import Array

LOSSES = ("nats", "bits", "perplexity", "ppl")
FEWEST = 200.0  # weights, tokens: a median below it is in another unit
LARGEST_LOSS = 16.0  # nats per token: above what any vocabulary gives an untrained model
SIZED = ("active", "total", "tokens", "unique", "compute", "flops_active", "flops_executed")


def parse_units(text: str) -> dict[str, str]:
    """`active=M,tokens=B,loss=bits` as a dictionary. Raises ValueError for another role or unit."""
    found = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        role, equals, unit = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"unit {part!r} is not of the form role=unit, for example active=M")
        if role not in (*SIZED, "loss"):
            raise ValueError(f"units are of {', '.join((*SIZED, 'loss'))}, not of {role!r}{nearest(role, SIZED)}")
        known = LOSSES if role == "loss" else (*SIZES, "1")
        if unit not in known:
            raise ValueError(f"unit {unit!r} of {role!r} is unknown; expected one of {', '.join(known)}")
        found[role] = unit
    return found


def nats(loss: Array, unit: str) -> Array:
    """Nats per token: bits times ln 2, a perplexity's logarithm."""
    if unit == "nats":
        return loss
    if unit == "bits":
        return np.asarray(loss * np.log(2.0))
    with np.errstate(all="ignore"):
        logarithm: Array = np.log(loss)
    return logarithm


def factor(unit: str) -> float:
    return 1.0 if unit in ("", "1") else SIZES[unit]


def check(values: Mapping[str, Array], columns: Mapping[str, str], said: Mapping[str, str], size: str) -> None:
    """Raise ValueError for a column whose numbers are those of another unit, unless its unit was
    said. size: the role that the active weights were told from; "" where they need no check.
    """
    for role, source in (("active", size), ("tokens", "tokens"), ("unique", "unique")):
        usable = values[role][np.isfinite(values[role]) & (values[role] > 0)]
        if source in columns and source not in said and len(usable) and np.median(usable) < FEWEST:
            raise ValueError(
                f"column {columns[source]!r} {'has' if source == role else 'gives'} {usable.min():g} to "
                f"{usable.max():g} {NAMES[role]}, too few to be true; say its unit, for example "
                f"--units {source}={'G' if source == 'compute' else 'M'} (or {source}=1 where it is meant)"
            )
    usable = values["loss"][np.isfinite(values["loss"])]
    if "loss" in columns and "loss" not in said and len(usable) and np.median(usable) > LARGEST_LOSS:
        raise ValueError(
            f"column {columns['loss']!r} has losses of {usable.min():g} to {usable.max():g}, too large for nats per "
            f"token; say its unit, for example --units loss=perplexity (or loss=nats where it is meant)"
        )


NAMES = {"active": "weights", "tokens": "tokens", "unique": "unique tokens"}
