"""Named points at which a process kills itself when it is told to: moments that a random kill
hardly ever meets, inside a write, between a checkpoint and its pointer, between the ledger and
the row.

`RAYSPARSE_KILL_AT=checkpoint.written:3` sends SIGKILL to the process when it comes to that point
for the third time; nothing is cleaned up, as when a machine loses its power. Without the variable a
point is an empty function, bound when this file is read: nothing is looked up, counted or printed
(about 50 ns a call, and no point lies inside a training step).

Left out: whose process it is. Children inherit the variable, each counts for itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "RAYSPARSE_KILL_AT"
# Every point of the code and where it lies; tests/chaos/test_points.py holds both ways.
POINTS: dict[str, str] = {
    "file.half": "half of a file's bytes are in the temporary file",
    "file.written": "the temporary file is whole and synced, its name is not given yet",
    "file.named": "the file has its name, its folder is not synced",
    "plan.saved": "plan.json holds what a planner proposed, nothing was handed out",
    "tokens.shards": "the shards of a token store are there, its manifest is not",
    "tokens.published": "the manifest is there, what an unfinished preparation kept is too",
    "lock.renewed": "the lock of an object store was renewed",
    "trial.leased": "the ledger has reserved for a trial, its worker was not told",
    "checkpoint.copied": "the state is copied for a checkpoint, nothing is written",
    "checkpoint.written": "the state is written, latest.json names the one before",
    "checkpoint.pointed": "latest.json names the new state, the older file is still there",
    "trial.trained": "a trial took its last step, its weights and its row are not written",
    "ledger.settled": "the ledger holds what a trial cost, its row is not written",
    "journal.written": "the row is written, the broker has not noted it",
    "study.begun": "a trial is about to be written into the Optuna study",
    "study.mirrored": "some of the trials are in the Optuna study",
    "table.made": "results.parquet is written",
}


def _nothing(name: str) -> None:
    pass


def _killer(wanted: str) -> Callable[[str], None]:
    """A `point` that kills at the wanted one. Raises ValueError for a name that is none."""
    name, _, nth = wanted.partition(":")
    if name not in POINTS or not (nth or "1").isdigit() or nth == "0":
        raise ValueError(f"{VARIABLE} is {wanted!r}, expected NAME or NAME:NTH with NAME one of {', '.join(POINTS)}")
    left = int(nth or 1)

    def point(here: str) -> None:
        nonlocal left
        left -= here == name
        if here == name and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return point


# Call it as `faults.point("journal.written")`.
point: Callable[[str], None] = _killer(os.environ[VARIABLE]) if VARIABLE in os.environ else _nothing
