"""One driver owns a run folder: a second one on the same folder is refused, a driver that was
killed leaves nothing behind.

On a local disk the operating system holds the lock (flock), so it ends with the process that took
it, kill -9 included, and nobody has to delete a stale file. An object store has no such thing;
there the owner renews a small file, and one that was not renewed for a minute is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator

from raysparse import faults
from raysparse.files import Folder
from raysparse.run_folder import LOCK

RENEW_EVERY = 15.0  # seconds
STALE_AFTER = 60.0


@contextlib.contextmanager
def owned(folder: Folder) -> Iterator[None]:
    """Own the run folder inside the `with`. Raises ValueError naming the other driver when there is
    one.
    """
    with _owned_locally(folder) if folder.is_local else _owned_remotely(folder):
        yield


def _refusal(folder: Folder, owner: str) -> ValueError:
    return ValueError(
        f"{folder.uri} is in use by another sweep ({owner}); wait for it to end, or choose another --name"
    )


@contextlib.contextmanager
def _owned_locally(folder: Folder) -> Iterator[None]:
    with open(folder.local_path / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _refusal(folder, file.read().strip() or "unknown") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def _owned_remotely(folder: Folder) -> Iterator[None]:
    me = f"process {os.getpid()} on {platform.node()}"
    if folder.exists(LOCK):
        held = json.loads(folder.read(LOCK))
        if held["owner"] != me and time.time() - held["renewed"] < STALE_AFTER:
            raise _refusal(folder, held["owner"])
    ended = threading.Event()

    def renew() -> None:
        folder.write_json(LOCK, {"owner": me, "renewed": time.time()})
        while not ended.wait(RENEW_EVERY):
            folder.write_json(LOCK, {"owner": me, "renewed": time.time()})
            faults.point("lock.renewed")

    renewer = threading.Thread(target=renew, name="run-folder-owner", daemon=True)
    renewer.start()
    try:
        yield
    finally:
        ended.set()
        renewer.join()
        folder.delete(LOCK)
