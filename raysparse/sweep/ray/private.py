"""The Ray that a sweep starts for itself: whether it lives, and an end that leaves nothing behind.

Ray's own shutdown ends the processes that the driver started. A worker whose raylet was killed, or
which was stopped while its driver died, belongs to nobody, may go on for a while and write beside
its successor. So every process of a private Ray carries its run folder in its environment, and
before another one is started for that folder, which its lock allows to one driver only, all that
carry it are killed. Left out: machines without /proc, where Ray's own shutdown must do, and
clusters that a sweep has joined, which are somebody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray._private import worker

MARK = "RAYSPARSE_PRIVATE_RAY"
PATIENCE = 20.0  # seconds for a killed process to be gone
VITAL = ("raylet", "gcs_server")  # and not the dashboard, or what collects logs
LAST_WORDS = "Raylet is terminated"


@contextlib.contextmanager
def marked(owner: str) -> Iterator[None]:
    """Mark the processes that are started inside, and theirs."""
    os.environ[MARK] = owner
    try:
        yield
    finally:
        del os.environ[MARK]


def ended() -> list[str]:
    """Which of its two processes that it cannot live without have ended."""
    node = worker._global_node
    return [] if node is None else [str(name) for name, _ in node.dead_processes() if name in VITAL]


def end_all(owner: str) -> None:
    """Kill every process that is marked so, and wait until there is none. Raises RuntimeError when
    one does not go.
    """
    until = time.monotonic() + PATIENCE
    while left := _alive(owner):
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > until:
            raise RuntimeError(f"processes {left} of a Ray that has ended cannot be killed; end them and run again")
        time.sleep(0.05)


def _alive(owner: str) -> list[int]:
    wanted = f"{MARK}={owner}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            carries = wanted in (entry / "environ").read_bytes().split(b"\0")
            is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if carries and not is_dead and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def without_last_words() -> None:
    """Ray prints twenty lines of its raylet's log when that dies; the sweep says it in one."""
    whole = worker.print_to_stdstream
    if whole.__module__ == __name__:
        return

    def shorter(data: dict[str, Any], *rest: Any, **more: Any) -> None:
        if not str(data["lines"][0]).startswith(LAST_WORDS):
            whole(data, *rest, **more)

    worker.print_to_stdstream = shorter
