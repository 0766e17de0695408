"""Sweeps in processes of their own, which can be killed, and what is read from their folders
afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from raysparse.files import Folder
from raysparse.sweep import runner
from raysparse.sweep.plan import Plan
from raysparse.sweep.settings import Settings

PATIENCE = 240.0  # seconds; a test never fails because a machine is slow
STARTED: list[subprocess.Popen[str]] = []  # since `end_all`


def start(
    plan: Plan, storage: Path, *arguments: str, program: tuple[str, ...] = ("-m", "raysparse"), dashboard: bool = False
) -> subprocess.Popen[str]:
    """`raysparse sweep` on a plan, its output in storage/log.txt. Ray's dashboard would be a tenth
    of what a small sweep costs.
    """
    storage.mkdir(parents=True, exist_ok=True)
    file = storage / "plan-file.json"
    file.write_text(json.dumps(plan.to_dict()))
    command = [
        sys.executable,
        *program,
        "sweep",
        str(file),
        "--storage",
        str(storage),
        "--name",
        "run",
        *([] if dashboard or "--address" in arguments else ["--no-dashboard"]),
        *arguments,
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with open(storage / "log.txt", "a") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=hear_ctrl_c,
        )
    STARTED.append(process)
    return process


def end_all() -> None:
    """Interrupt what a failed test left, so that it is not in the way of the next one."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            for pid in descendants(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    kill(pid)
            process.kill()
            process.wait()


def hear_ctrl_c() -> None:
    """A shell that runs the tests in the background makes their processes deaf to SIGINT; a user's
    are not.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(plan: Plan, storage: Path, *arguments: str) -> str:
    """Run the plan to its end; what it printed."""
    (storage / "log.txt").unlink(missing_ok=True)
    process = start(plan, storage, *arguments)
    status = process.wait(PATIENCE)
    printed = (storage / "log.txt").read_text()
    assert status == 0, printed
    return printed


def undisturbed(plan: Plan, storage: Path) -> dict[str, tuple]:
    """The losses of a plan that nobody disturbs, run to its end in this process."""
    summary = runner.run(plan, Folder(storage), "run", Settings(executor="inline"))
    assert summary.is_complete, summary.unfinished
    return losses(storage)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str], storage: Path) -> None:
    """Wait for something to happen while a sweep runs."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert process.poll() is None, "the sweep ended too soon: " + (storage / "log.txt").read_text()
        assert time.monotonic() < end, "it never happened: " + (storage / "log.txt").read_text()
        time.sleep(0.1)  # some conditions read all of /proc


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def journal(storage: Path) -> list[str]:
    return sorted(path.stem for path in (storage / "run" / "journal").glob("*.json"))


def descendants(pid: int) -> dict[int, str]:
    """The processes under `pid`, and what each calls itself."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    below, level = set(), {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        below |= level
    return {child: name for child in below if (name := _command(child)) is not None}


def _command(pid: int) -> str | None:
    """What a process calls itself; None when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None


def losses(storage: Path) -> dict[str, tuple]:
    """What must be equal bit for bit: the losses of each trial, one row per trial."""
    rows = pq.read_table(storage / "run" / "results.parquet").to_pylist()
    found = {
        row["trial_id"]: (
            row["status"],
            row["train_loss"],
            row["validation_loss"],
            tuple(e["loss"] for e in row["evaluations"]),
        )
        for row in rows
    }
    assert len(found) == len(rows), "a trial has two rows"
    return found
