"""Where a folder lies: a local path, or a URI whose path and query are read apart.

A URI of an object store says in its query how to reach it (`s3://bucket/run?region=eu-west-1`), so
"the folder below" is a longer path before the same query; that is decided here and nowhere else.
The path is taken literally, as `aws s3` takes it. A URI is printed, logged and written into files,
so one that holds a credential is refused; the message does not repeat it.

Requests to S3 are few by choice: small files are one PUT (`allow_delayed_open`), nothing looks
whether a bucket is there or makes one. Left out: what is done with files (`files`).
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

# What the query of an s3:// URI may say, named as pyarrow's S3FileSystem names it.
S3_QUERY = ("region", "endpoint_override", "scheme", "tls_ca_file_path")
SECRET = re.compile(r"key|secret|token|password|sig|credential", re.IGNORECASE)
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 5.0, 60.0, 5  # seconds, seconds, tries of a request
REMEDY = (
    "leave it out: credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
    "GOOGLE_APPLICATION_CREDENTIALS) of the process that starts the sweep, or from the role of the machines"
)


@dataclass(frozen=True)
class Location:
    """A path, or scheme://path with its query (empty for none)."""

    path: str
    query: str = ""

    @classmethod
    def parse(cls, place: str | Path) -> Self:
        """Raises ValueError for a URI that holds credentials, or an s3:// query with a field that
        nobody knows.
        """
        text = str(place)
        if "://" not in text:
            return cls(text)
        path, _, query = text.partition("?")
        _refuse_credentials(path, query)
        if path.startswith("s3://"):
            for name, value in parse_qsl(query, keep_blank_values=True):
                if name not in S3_QUERY:
                    raise ValueError(f"storage {path} has {name!r} in its query, expected {', '.join(S3_QUERY)}")
                if "@" in value:
                    raise ValueError(f"storage {path} has a credential in {name}; {REMEDY}")
        return cls(path, query)

    def __str__(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def is_uri(self) -> bool:
        return "://" in self.path

    def child(self, *parts: str) -> Self:
        """Raises ValueError for a name that would begin a query."""
        if self.is_uri and any("?" in part for part in parts):
            raise ValueError(f"{'/'.join(parts)!r} is no name below {self}: a question mark begins the query of a URI")
        return replace(self, path="/".join([self.path.rstrip("/"), *parts]))

    @property
    def parent(self) -> Self:
        """The folder around it; of a bucket, itself."""
        path = self.path.rstrip("/") or "/"
        if self.is_uri and "/" not in path.partition("://")[2]:
            return self
        above = path.rpartition("/")[0]
        return replace(self, path=above or ("/" if path.startswith("/") else "."))

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rpartition("/")[2]

    def opened(self) -> tuple[FileSystem | None, str]:
        """The file system and the path in it; None for a local one. Raises ValueError when pyarrow
        cannot open it.
        """
        if not self.is_uri:
            return None, str(Path(self.path).expanduser().absolute())
        if self.path.startswith("s3://"):
            inside = self.path.removeprefix("s3://").rstrip("/")
            bucket = inside.partition("/")[0]
            if not bucket:
                raise ValueError(f"storage {str(self)!r} names no bucket, expected s3://BUCKET/FOLDER")
            return _s3(bucket, self.query), inside
        import pyarrow as pa
        from pyarrow.fs import FileSystem, LocalFileSystem

        try:
            filesystem, path = FileSystem.from_uri(str(self))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"storage {str(self)!r} is not a path or a URI that pyarrow can open: {error}") from error
        return (None if isinstance(filesystem, LocalFileSystem) else filesystem), path


def s3_settings(query: str) -> dict[str, str]:
    """What the query of an s3:// URI says."""
    return dict(parse_qsl(query))


@functools.lru_cache(maxsize=64)
def _s3(bucket: str, query: str) -> FileSystem:
    """One client for all folders of a bucket: its connections stay open."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    said = s3_settings(query)
    try:
        if not said.keys() & {"region", "endpoint_override"}:
            said["region"] = resolve_s3_region(bucket)
        return S3FileSystem(
            **said,
            allow_delayed_open=True,
            connect_timeout=CONNECT_TIMEOUT,
            request_timeout=REQUEST_TIMEOUT,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        )
    except (ValueError, OSError) as error:
        raise ValueError(f"storage s3://{bucket} cannot be opened: {error}") from error


def _refuse_credentials(path: str, query: str) -> None:
    parts = urlsplit(path)
    user, _, host = parts.netloc.rpartition("@")
    if user and (":" in user or parts.scheme == "s3"):
        raise ValueError(f"storage {parts.scheme}://...@{host}{parts.path} holds credentials; {REMEDY}")
    for name, _ in parse_qsl(query, keep_blank_values=True):
        if SECRET.search(name):
            raise ValueError(f"storage {path} holds a credential in its query ({name}); {REMEDY}")
