"""What a killed driver leaves behind: processes of the Ray that its sweep had started.

Ray's own shutdown ends the processes that the driver started. A worker whose raylet was killed, or
which was stopped while its driver died, belongs to nobody, may go on for a while and write beside
its successor; and for a moment so does a broker. So every process of a private Ray carries its run
folder in its environment, and whoever owns the folder next kills all that carry it before he reads
what is in it. Left out: machines without /proc, where Ray's own shutdown must do, and clusters that
a sweep has joined, which are somebody else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "RAYSPARSE_PRIVATE_RAY"
PATIENCE = 20.0  # seconds for a killed process to be gone


@contextlib.contextmanager
def marked(owner: str) -> Iterator[None]:
    """Mark the processes that are started inside, and theirs."""
    os.environ[MARK] = owner
    try:
        yield
    finally:
        del os.environ[MARK]


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
