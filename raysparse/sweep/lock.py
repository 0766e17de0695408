"""One driver owns a run folder: a second one on the same folder is refused, a driver that was
killed leaves nothing behind.

On a local disk the operating system holds the lock (flock), so it ends with the process that took
it, kill -9 included. On S3 the lock is an object that is only ever written conditionally: of two
drivers that create it, or take over one that was not renewed for a minute, the store lets one
through. Its age is read from the store's clock alone. An owner whose renewal is refused has been
taken over and stops (`KeyboardInterrupt` in its thread, then ValueError).

Where there are no conditional writes (other stores, no boto3, a server that ignores conditions) the
lock is written, and looked at again after a moment; two drivers would have to be more than that
moment apart between looking and writing to both run. That it is so is said.

On a cluster the broker is a process of its own, which lives on for seconds when its driver is
killed. It holds a second lock of a local folder (`books`), and the next driver waits for that
before it reads what is in the folder; an object store's lock is stale long after such a broker has
ended. Left out: fencing what a stopped driver's workers write (`broker`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO

from raysparse import faults
from raysparse.conditional import Conditional, why_not
from raysparse.files import Folder
from raysparse.run_folder import BOOKS_LOCK, LOCK

RENEW_EVERY = 15.0  # seconds
STALE_AFTER = 60.0
SETTLE = 2.0  # until a lock without conditions is looked at again
PATIENCE = 60.0  # seconds for the broker of a killed driver to end
RELEASED = b'{"owner": ""}\n'


@contextlib.contextmanager
def owned(folder: Folder, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Own the run folder inside the `with`. Raises ValueError naming the other driver when there is
    one, or when another one has taken over meanwhile; OSError when the storage does not answer.

    `say` hears what people should know about the lock.
    """
    with _owned_locally(folder) if folder.is_local else _owned_remotely(folder, say):
        yield


def _refusal(folder: Folder, owner: str) -> ValueError:
    return ValueError(
        f"{folder.uri} is in use by another sweep ({owner}); wait for it to end, or choose another --name"
    )


def _myself() -> str:
    return f"process {os.getpid()} on {platform.node()}"


@contextlib.contextmanager
def _owned_locally(folder: Folder) -> Iterator[None]:
    with open(folder.local_path / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _refusal(folder, file.read().strip() or "unknown") from error
        file.truncate(0)
        file.write(f"{_myself()}\n")
        file.flush()
        yield


def books(folder: Folder) -> IO[str] | None:
    """Hold the books of a local run folder: as long as the file that is returned is open. Waits for
    another process that does. Raises ValueError when that does not end.
    """
    if not folder.is_local:
        return None
    file = open(folder.writable().local_path / BOOKS_LOCK, "a")  # noqa: SIM115
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                remedy = "end its Ray (ray stop) and run again"
                raise ValueError(f"{folder.uri} is still written by the broker of a killed sweep; {remedy}") from None
        time.sleep(0.05)


def await_broker(folder: Folder) -> None:
    """Wait until nobody holds the books of a run folder. Raises as `books` does."""
    if folder.is_local and (folder.local_path / BOOKS_LOCK).exists() and (file := books(folder)):
        file.close()


@contextlib.contextmanager
def _owned_remotely(folder: Folder, say: Callable[[str], None]) -> Iterator[None]:
    reason = why_not(folder)
    lock: _Lock = _Looking(folder) if reason else _Conditioned(folder)
    if not reason and not lock.take():
        reason = "the server ignores the conditions of a write"
        lock = _Looking(folder)
    if reason:
        say(f"lock of {folder.uri} without conditional writes ({reason}): do not start two sweeps at once in it")
        lock.take()
    keeper = Keeper(lock, threading.get_ident())
    try:
        yield
    except KeyboardInterrupt as error:
        if keeper.lost:
            raise ValueError(f"{folder.uri} was taken over by another sweep; this one has stopped") from error
        raise
    finally:
        keeper.stop()
        if not keeper.lost:
            lock.release()


class _Lock:
    """What a `Keeper` keeps."""

    def __init__(self, folder: Folder):
        self.folder = folder

    def take(self) -> bool:
        """Take the lock, False when it cannot be held this way here. Raises ValueError when it is
        another's.
        """
        raise NotImplementedError

    def renew(self) -> bool:
        """False when somebody else has it."""
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


class _Conditioned(_Lock):
    """The lock by conditional writes."""

    def __init__(self, folder: Folder):
        super().__init__(folder)
        self._object = Conditional(folder, LOCK)
        self._tag = ""

    def _mine(self) -> bytes:  # never twice the same bytes, whose tag would be the same
        value = {"owner": _myself(), "mark": secrets.token_hex(8), "renewed": time.time()}
        return (json.dumps(value) + "\n").encode()

    def take(self) -> bool:
        tag = self._object.create(self._mine())
        if tag is None:
            held = self._object.read()
            if held is None:
                raise _refusal(self.folder, "which is just letting go of it")
            owner = json.loads(held.data)["owner"]
            if owner and held.age < STALE_AFTER:
                raise _refusal(self.folder, owner)
            tag = self._object.replace(self._mine(), held.tag)
            if tag is None:
                raise _refusal(self.folder, "which was a moment faster")
        self._tag = tag
        if self._object.create(self._mine()) is None:  # as a server that knows conditions does
            return True
        self.folder.write(LOCK, RELEASED)
        return False

    def renew(self) -> bool:
        tag = self._object.replace(self._mine(), self._tag)
        self._tag = tag or self._tag
        return tag is not None

    def release(self) -> None:
        self._object.replace(RELEASED, self._tag)


class _Looking(_Lock):
    """The lock by writing, and looking whether it stayed."""

    def __init__(self, folder: Folder):
        super().__init__(folder)
        self._mark = secrets.token_hex(8)

    def _write(self) -> None:
        self.folder.write_json(LOCK, {"owner": _myself(), "mark": self._mark, "renewed": time.time()})

    def take(self) -> bool:
        held = self.folder.read_json_if_there(LOCK) or {"owner": ""}
        if held["owner"] and time.time() - held.get("renewed", time.time()) < STALE_AFTER:
            raise _refusal(self.folder, held["owner"])
        self._write()
        time.sleep(SETTLE)
        held = self.folder.read_json(LOCK)
        if held.get("mark") != self._mark:
            raise _refusal(self.folder, held["owner"])
        return True

    def renew(self) -> bool:
        held = self.folder.read_json(LOCK)
        if held.get("mark") != self._mark:
            return False
        self._write()
        return True

    def release(self) -> None:
        self.folder.write(LOCK, RELEASED)


class Keeper(threading.Thread):
    """Renews a lock until it is stopped; interrupts the thread that owns it when it is lost, which
    it also is when the store could not be reached until others may take it over.
    """

    def __init__(self, lock: _Lock, owner: int):
        super().__init__(name="run-folder-owner", daemon=True)
        self.lost = False
        self._lock, self._owner, self._ended = lock, owner, threading.Event()
        self.start()

    def run(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(RENEW_EVERY):
            began = time.monotonic()
            try:
                self.lost = not self._lock.renew()
                renewed = began
                faults.point("lock.renewed")
            except OSError:  # a storage may be away for a moment
                self.lost = time.monotonic() - renewed > STALE_AFTER
            if self.lost:
                interrupt = ctypes.py_object(KeyboardInterrupt)  # a signal would be ignored in the background
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._owner), interrupt)
                return

    def stop(self) -> None:
        self._ended.set()
        self.join()
