"""One attempt at one trial, wherever it runs: every way in which it can end becomes an Outcome that
the broker understands.

A trial must not take the sweep with it, so this is the only place that catches everything a trial
can raise - and it swallows nothing: the traceback goes whole into `trials/<id>/failure.txt`, its
last line into the row. Both executors call it, `inline` in this process and `ray/worker.py`
in a Ray Train worker. Imports torch.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable

import torch

from raysparse.data.manifest import MANIFEST
from raysparse.data.store import TokenStore
from raysparse.files import Folder
from raysparse.results import Outcome, Status
from raysparse.run_folder import CHECKPOINT, FAILURE
from raysparse.sweep.broker import Lease, Report
from raysparse.train import device, trial
from raysparse.train.hooks import Progress, StopTrial


def attempt(lease: Lease, tell: Callable[[Report], str]) -> Outcome:
    """Train the trial of a lease, from its checkpoint if it has one.

    `tell` takes each report and answers with a reason to stop, or "". Raises nothing but what ends
    the process (Ctrl-C).
    """

    def relay(report: Report) -> None:
        reason = tell(report)
        if reason:
            raise StopTrial(reason)

    placement = lease.placement
    try:
        for under in ("", CHECKPOINT):
            lease.folder.discard_temporaries(under)
        placement = device.fitted(lease.spec, placement)
        store = token_store(lease.token_folder)
        return trial.run(lease.spec, store, lease.folder, placement=placement, hooks=[Progress(relay)])
    except Exception as error:
        status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
        reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:500]
        try:
            lease.folder.write(FAILURE, traceback.format_exc().encode())
        except OSError as second:
            reason += f"; nor could {FAILURE} be written: {second}"
        return Outcome(status=status, reason=reason, micro_batch=placement.micro_batch, recompute=placement.recompute)


def token_store(folder: Folder) -> TokenStore:
    """The store in a folder, whose shards are hashed once a process, not once a trial."""
    try:
        return _opened(folder.uri, folder.read(MANIFEST))
    except FileNotFoundError:
        return TokenStore.open(folder)  # which says what is missing


@functools.lru_cache(2)
def _opened(uri: str, manifest: bytes) -> TokenStore:
    return TokenStore.open(Folder(uri))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device had too little memory; torch's CPU allocator raises a
    plain RuntimeError.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
