"""A run folder on a local disk or an object store: the one place where raysparse reads and writes
files that must survive.

A write is whole or absent. Locally that is temporary name, fsync, rename; an object store publishes
an object only when it is complete, so there the upload itself is atomic. Paths are relative to the
folder, with "/" between parts. Checksums are SHA-256 over the bytes written.

Left out: what the files mean (docs/run-folder.md), locking (one driver owns a run folder; `sweep`
checks that), and appending, which object stores do not have: logs are rewritten whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self, TypeVar

from raysparse import faults
from raysparse.location import Location

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

FLAT = ("s3", "gcs", "abfs")  # file systems of objects, where a folder is the beginning of a name
READERS = 24  # questions at once to an object store, where asking is waiting; pyarrow keeps 25 connections

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def checksum(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def default_cache() -> Path:
    """Where a machine keeps copies of remote files: $XDG_CACHE_HOME/raysparse, or
    ~/.cache/raysparse.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raysparse"


def as_json(value: Any) -> bytes:
    """JSON, a line for each item of a dictionary and of its lists: indenting takes seconds."""

    def text(inner: Any) -> str:
        items = [json.dumps(item, sort_keys=True) for item in inner] if isinstance(inner, list | tuple) else []
        return "[\n" + ",\n".join(items) + "\n]" if items else json.dumps(inner, sort_keys=True)

    fields = [f"{json.dumps(key)}: {text(value[key])}" for key in sorted(value)] if isinstance(value, dict) else []
    return (("{\n" + ",\n".join(fields) + "\n}" if fields else text(value)) + "\n").encode()


def write_file_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a local file whole or not at all, and durably: the data and the folder entry are
    synced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}~{platform.node()}~{os.getpid()}~{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            half = memoryview(data)[: len(data) // 2]
            file.write(half)
            faults.point("file.half")
            file.write(memoryview(data)[len(half) :])
            file.flush()
            os.fsync(file.fileno())
        faults.point("file.written")
        os.replace(temporary, path)
        faults.point("file.named")
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk names none by itself
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True, order=True)
class Stamp:
    """When a file was written last (nanoseconds since 1970, by the clock of its storage; object
    stores count whole seconds) and its bytes.
    """

    written_at: int
    size: int


def _is_being_written(temporary: Path) -> bool:
    """Whether the process that began a temporary file lives, as far as this machine can tell."""
    _, node, process, _ = temporary.name.rsplit("~", 3)
    if node != platform.node():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


class Folder:
    """A folder at a local path or any `pyarrow.fs` URI (s3://, gs://, file://). Safe to send to
    another process.

    Raises ValueError when the URI cannot be understood or holds credentials, and when `writable()`
    finds that nothing can be written there.
    """

    # In the names of checkpoints written here: whose they are, where writers may follow each other.
    mark = ""

    def __init__(self, uri: str | Path):
        self.location = Location.parse(uri)
        self.uri = str(self.location)
        self._filesystem, self.root = self._resolve(self.uri)

    @staticmethod
    def _resolve(uri: str) -> tuple[FileSystem | None, str]:
        return Location.parse(uri).opened()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return type(self), (self.uri,)

    @property
    def is_local(self) -> bool:
        return self._filesystem is None

    @property
    def local_path(self) -> Path:
        if not self.is_local:
            raise ValueError(f"{self.uri} is not on a local disk")
        return Path(self.root)

    @property
    def name(self) -> str:
        return self.location.name

    @property
    def parent(self) -> Folder:
        return Folder(str(self.location.parent))

    def absolute(self) -> Self:
        """The same folder by its whole path, which has a name where `.` has none; a URI of an
        object store is whole.
        """
        return type(self)(os.path.abspath(self.root)) if self.is_local else self

    def child(self, *parts: str) -> Folder:
        return Folder(self.at(*parts))

    def at(self, *parts: str) -> str:
        """The path or URI of something in the folder, for people and other programs."""
        return str(self.location.child(*parts))

    def _path(self, name: str) -> str:
        return str(PurePosixPath(self.root, name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file; on a local disk, or such a folder."""
        if self._filesystem is None:
            return Path(self._path(name)).exists()
        try:
            # One request, and none to look for folders.
            self._filesystem.open_input_stream(self._path(name)).close()
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write `name` whole or not at all."""
        if self._filesystem is None:
            write_file_atomically(Path(self._path(name)), data)
            return
        if self._filesystem.type_name not in FLAT:
            self._filesystem.create_dir(str(PurePosixPath(self._path(name)).parent), recursive=True)
        # In a thread of its own, which no interrupt reaches: a stream that is left is closed, and
        # so publishes what it was given until then.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self._put, self._path(name), data).result()

    def _put(self, path: str, data: bytes | memoryview) -> None:
        assert self._filesystem is not None
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def read(self, name: str) -> bytes:
        """The bytes of `name`. Raises FileNotFoundError."""
        if self._filesystem is None:
            return Path(self._path(name)).read_bytes()
        with self._filesystem.open_input_stream(self._path(name)) as stream:
            return bytes(stream.read())

    def each(self, ask: Callable[[Asked], Answer], about: Sequence[Asked]) -> Iterator[Answer]:
        """What `ask` says of each, in this order; an object store is asked for several at once."""
        if self.is_local or len(about) < 2:
            yield from map(ask, about)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(ask, about)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, as_json(value))

    def read_json(self, name: str) -> Any:
        """Raises FileNotFoundError, or ValueError naming the file when it is not JSON."""
        return self.parsed(name, self.read(name))

    def parsed(self, name: str, data: bytes) -> Any:
        """The JSON value of a file that was read already. Raises ValueError naming the file."""
        try:
            return json.loads(data)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.at(name)} is not valid JSON ({error}); it was damaged or edited by hand"
            ) from error

    def read_json_if_there(self, name: str) -> Any:
        """As `read_json`, None where there is no such file: one request less than looking first."""
        try:
            return self.read_json(name)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, under: str = "") -> list[str]:
        """Names of the files and folders directly in `under`, sorted; temporary files left out; []
        when it is absent.
        """
        if self._filesystem is None:
            path = Path(self._path(under))
            found = [p.name for p in path.iterdir()] if path.is_dir() else []
        else:
            found = [PurePosixPath(info.path).name for info in self._infos(under)]
        return sorted(name for name in found if not name.endswith(".tmp"))

    def stamps(self, under: str = "") -> dict[str, Stamp]:
        """Name -> stamp of the files directly in `under`, temporary ones left out; an object store
        tells a thousand in one request.
        """
        if self._filesystem is None:
            path = Path(self._path(under))
            found = {e.name: e.stat() for e in os.scandir(path) if e.is_file()} if path.is_dir() else {}
            stamps = {name: Stamp(about.st_mtime_ns, about.st_size) for name, about in found.items()}
        else:
            infos = [info for info in self._infos(under) if info.is_file]
            stamps = {PurePosixPath(info.path).name: Stamp(info.mtime_ns or 0, info.size) for info in infos}
        return {name: stamp for name, stamp in stamps.items() if not name.endswith(".tmp")}

    def sizes(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every file in the folder and below it; links are not followed."""
        if self._filesystem is None:
            for place, _, names in os.walk(self.root):
                for path in (Path(place, name) for name in names):
                    with contextlib.suppress(FileNotFoundError):  # a sweep may be running
                        yield path.relative_to(self.root).as_posix(), path.lstat().st_size
            return
        from pyarrow.fs import FileSelector

        selector = FileSelector(self.root, recursive=True, allow_not_found=True)
        for info in self._filesystem.get_file_info(selector):
            if info.is_file:
                yield str(PurePosixPath(info.path).relative_to(self.root)), info.size

    def _infos(self, under: str) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        assert self._filesystem is not None
        found: list[FileInfo] = self._filesystem.get_file_info(FileSelector(self._path(under), allow_not_found=True))
        return found

    def delete(self, name: str) -> None:
        """Delete a file; absent is fine."""
        if self._filesystem is None:
            Path(self._path(name)).unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._filesystem.delete_file(self._path(name))

    def discard_temporaries(self, under: str = "") -> None:
        """Delete what writers left in `under` when they were killed; those that still live on this
        machine keep theirs. An object store publishes only whole objects and holds none.
        """
        for path in Path(self._path(under)).glob(".*~*~*~*.tmp") if self.is_local else ():
            if not _is_being_written(path):
                path.unlink(missing_ok=True)

    def writable(self) -> Self:
        """This folder, after proving that a file can be written there. Raises ValueError naming the
        folder and the cause.
        """
        probe = f".writable-{secrets.token_hex(4)}"
        try:
            self.write(probe, b"")
            self.delete(probe)
        except OSError as error:
            raise ValueError(f"cannot write to storage {self.uri!r}: {error}; choose another --storage") from error
        return self
