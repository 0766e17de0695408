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
import torch.distributed as dist

from raysparse.data.manifest import MANIFEST
from raysparse.data.store import TokenStore
from raysparse.files import Folder
from raysparse.results import Outcome, Status
from raysparse.run_folder import CHECKPOINT, FAILURE
from raysparse.sweep.lease import Fence, FencedFolder, Lease, LeaseLostError, Report
from raysparse.train import device, ranks, trial
from raysparse.train.hooks import Progress, StopTrial

# How torch.distributed says that another rank is gone: gloo by these words, NCCL by a type.
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport")


def attempt(lease: Lease, fence: Fence, tell: Callable[[Report], str]) -> Outcome:
    """Train the trial of a lease, from its checkpoint if it has one.

    `tell` takes each report and answers with a reason to stop, or "". An outcome is `preempted`
    when the lease was lost, or another rank: then this one does not know the cause. Raises nothing
    but what ends the process (Ctrl-C).
    """

    def relay(report: Report) -> None:
        reason = tell(report)
        if reason:
            raise StopTrial(reason)

    placement, folder = lease.placement, FencedFolder(lease.folder, fence)
    try:
        if ranks.rank() == 0:
            for under in ("", CHECKPOINT):
                lease.folder.discard_temporaries(under)
            lease.run_folder.name_curves(lease.spec.trial_id, lease.spec.name)
        placement = device.fitted(lease.spec, placement)
        store = token_store(lease.token_folder)
        return trial.run(
            lease.spec, store, folder, placement=placement, hooks=[Progress(relay)], is_leaving=fence.is_leaving
        )
    except LeaseLostError as error:
        return Outcome(status="preempted", reason=str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip() or 'no message'}"[:500]
        if is_lost_peer(error):
            return Outcome(status="preempted", reason=f"another worker is gone: {reason}")
        status: Status = "out_of_memory" if is_out_of_memory(error) else "failed"
        try:
            folder.write(FAILURE, traceback.format_exc().encode())
        except (OSError, LeaseLostError) as second:
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


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error is only the echo of another rank's end."""
    if ranks.count() == 1:
        return False
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or any(w in str(error) for w in LOST_PEER)
