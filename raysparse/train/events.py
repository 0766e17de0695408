"""An event file of TensorBoard: the curves of one attempt at a trial.

Written by the training itself, all numbers of a step in one record. TensorBoard's own writer hands
each number to a thread of its own through a queue: made and ended for every trial, that took 5 ms
of CPU, twenty times as much as writing the curves of a short one. Left out: what is worth writing
(`hooks`).
"""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FORMAT = "brain.Event:2"
FLUSH_EVERY = 10.0  # seconds, so that curves can be looked at while they grow
_numbers = itertools.count()  # of the files of this process, which may begin in the same second


class EventFile:
    """A new file in `folder`, which is made if need be. `purge_step`: of what earlier files hold,
    TensorBoard forgets this step and all after it.
    """

    def __init__(self, folder: Path, purge_step: int | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        about = f"{int(time.time())}.{platform.node()}.{os.getpid()}.{next(_numbers)}"
        file = open(folder / f"events.out.tfevents.{about}", "wb")  # noqa: SIM115  (until `close`)
        self._records = RecordWriter(file)
        self._flushed = time.monotonic()
        self._write(file_version=FORMAT)
        if purge_step is not None:
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, by the names of their curves."""
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.summary(Summary(value=found), step)

    def summary(self, summary: Any, step: int | None = None) -> None:
        """What a plugin of TensorBoard shows."""
        self._write(step=step, summary=summary)
        if time.monotonic() - self._flushed > FLUSH_EVERY:
            self.flush()

    def _write(self, **what: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **what).SerializeToString())

    def flush(self) -> None:
        self._flushed = time.monotonic()
        self._records.flush()

    def close(self) -> None:
        self._records.close()
