"""Writes to S3 that happen only if nobody else wrote: what a lock on an object store needs.

pyarrow has no conditional write, so this one thing is done by boto3, an extra of its own (`s3`):
it is AWS's own client, finds credentials where pyarrow finds them (environment, profile, role of
the machine), and TensorBoard reads s3:// through it too. Left out: other object stores, for which
`available` says why not.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from raysparse.files import Folder
from raysparse.location import ATTEMPTS, CONNECT_TIMEOUT, REQUEST_TIMEOUT, s3_settings

REFUSED = (409, 412)  # another write came first, or goes on at the same moment


@dataclass(frozen=True)
class Held:
    """An object as it was found: its bytes, the tag of this writing of it, and for how many seconds
    it has lain there, by the clock of the store.
    """

    data: bytes
    tag: str
    age: float


def why_not(folder: Folder) -> str:
    """Why there are no conditional writes in a folder; empty where there are."""
    if not folder.uri.startswith("s3://"):
        return f"only s3:// has conditional writes here, not {folder.uri.partition('://')[0]}://"
    return "" if importlib.util.find_spec("boto3") else "boto3 is not installed: pip install '.[s3]' in the clone"


class Conditional:
    """Conditional writes of one object of a folder on S3."""

    def __init__(self, folder: Folder, name: str):
        import boto3
        from botocore.config import Config

        said = s3_settings(folder.location.query)
        endpoint = said.get("endpoint_override", "")
        if endpoint and "://" not in endpoint:
            endpoint = f"{said.get('scheme', 'https')}://{endpoint}"
        self._client: Any = boto3.client(
            "s3",
            region_name=said.get("region"),
            endpoint_url=endpoint or None,
            verify=said.get("tls_ca_file_path"),
            config=Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=REQUEST_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            ),
        )
        bucket, _, key = f"{folder.root}/{name}".partition("/")
        self._where = {"Bucket": bucket, "Key": key}

    def create(self, data: bytes) -> str | None:
        """Write the object if there is none. Returns its tag, None when there is one."""
        return self._put(data, IfNoneMatch="*")

    def replace(self, data: bytes, tag: str) -> str | None:
        """Write the object if it still is what `tag` says. Returns its new tag, or None."""
        return self._put(data, IfMatch=tag)

    def _put(self, data: bytes, **condition: str) -> str | None:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return str(self._client.put_object(**self._where, Body=data, **condition)["ETag"])
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in REFUSED or (status == 404 and "IfMatch" in condition):
                held = self.read()  # our own writing, when its answer was lost and it was sent again
                return held.tag if held is not None and held.data == data else None
            raise OSError(str(error)) from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error

    def read(self) -> Held | None:
        """The object; None when there is none."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.utils import parse_timestamp

        try:
            found = self._client.get_object(**self._where)
            now = parse_timestamp(found["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Held(found["Body"].read(), str(found["ETag"]), (now - found["LastModified"]).total_seconds())
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise OSError(str(error)) from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error
