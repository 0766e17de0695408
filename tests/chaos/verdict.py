"""What must hold of a run folder whatever happened to its sweep, once the sweep has ended.

`faults_of` says in words what does not; it reads the folder as a stranger would, without the code
that wrote it where that is possible.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raysparse.spec import TrialSpec

Losses = dict[str, tuple[Any, ...]]


def losses(run: Path) -> Losses:
    """What must be equal bit for bit, by trial id, from the table."""
    found = [(row["trial_id"], _compared(row)) for row in pq.read_table(run / "results.parquet").to_pylist()]
    assert len(dict(found)) == len(found), "a trial has two rows"
    return dict(found)


def _compared(row: dict[str, Any]) -> tuple[Any, ...]:
    evaluations = tuple((e["step"], e["loss"]) for e in row["evaluations"])
    return row["status"], row["train_loss"], row["validation_loss"], evaluations, row["steps"]


def faults_of(run: Path, undisturbed: Losses) -> list[str]:
    """What is wrong with the folder of a finished sweep, a line each; nothing when all holds."""
    found = losses(run)
    lines = [f"trial {key} has no row" for key in sorted(undisturbed.keys() - found.keys())]
    lines += [f"trial {key} was never planned" for key in sorted(found.keys() - undisturbed.keys())]
    lines += [
        f"trial {key} has {found[key]}, undisturbed {undisturbed[key]}"
        for key in sorted(found.keys() & undisturbed.keys())
        if found[key] != undisturbed[key]
    ]
    journal = {path.stem: json.loads(path.read_text()) for path in (run / "journal").glob("*.json")}
    if {key: _compared(row) for key, row in journal.items()} != found:
        lines.append("the journal and the table differ")
    planned = {TrialSpec.from_dict(spec).trial_id for spec in json.loads((run / "plan.json").read_text())["specs"]}
    lines += [f"trial {key} is not in plan.json" for key in sorted(found.keys() - planned)]
    ledger = json.loads((run / "ledger.json").read_text())
    lines += [
        f"trial {key} has {row['steps']} steps in its row, the ledger {ledger.get(key)}"
        for key, row in journal.items()
        if ledger.get(key, {"steps": -1})["steps"] < row["steps"]
    ]
    lines += [f"temporary file {path}" for path in run.parent.rglob("*.tmp")]
    lines += [line for key in found for line in _checkpoint_faults(run / "trials" / key)]
    return lines + _lock_faults(run / "driver.lock")


def _checkpoint_faults(trial: Path) -> list[str]:
    latest = json.loads((trial / "checkpoint" / "latest.json").read_text())
    files = sorted(path.name for path in (trial / "checkpoint").glob("*.pt"))
    if files != [latest["file"]]:
        return [f"{trial.name} keeps {files}, latest.json names {latest['file']}"]
    data = (trial / "checkpoint" / latest["file"]).read_bytes()
    return [] if hashlib.sha256(data).hexdigest() == latest["sha256"] else [f"{trial.name}: its checkpoint is damaged"]


def _lock_faults(path: Path) -> list[str]:
    if not path.exists():  # that of an object store ends with its sweep
        return []
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ["the run folder is still locked"]
    return []
