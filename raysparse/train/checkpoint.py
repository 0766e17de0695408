"""Checkpoints: the whole state of a run, atomic, with a checksum. Local disk or object store alike.

A `.pt` file is written first, `checkpoint/latest.json` (its name, step and SHA-256) after it, the
older file is deleted last; killed anywhere in between, the folder still holds one whole checkpoint.
All ranks hold the same state, so rank 0 writes and every rank reads. In a sweep a file's name also
says under which lease it was written, and nobody deletes one of a later lease: a worker that was
stopped and continues cannot harm what its successor wrote.

Training does not wait for the writing. `Behind` copies the state to the CPU's memory (of a GPU on a
stream of its own, while the next gradients are computed) and a thread serializes and writes the
copy. How often follows from what that costs, slower steps beside it included: at most `SHARE` of
the time. Left out: keeping a history of checkpoints. The copy takes as much of the CPU's memory as
the state.
"""

from __future__ import annotations

import io
import logging
import re
import statistics
import threading
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor

from raysparse import faults
from raysparse.files import Folder, checksum
from raysparse.run_folder import CHECKPOINT, LATEST, START, can_go_on
from raysparse.train.state import TrainState
from raysparse.train.weights import load_weights

SHARE = 0.02  # of the time, at most
USUAL, LAST = 50, 3  # steps that tell what one takes with nothing beside it; checkpoints that tell the cost
STOPPED = 10.0  # times the usual: in a longer step the process or its machine stood still, whatever was written
RESUMING = ("exp_avg", "exp_avg_sq", "age")  # what only further training needs

log = logging.getLogger(__name__)


def write(folder: Folder, content: dict[str, Any], *, keeps: str = "state") -> None:
    """Write a state, or its weights alone, as the folder's only checkpoint."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    # Two names, so that what latest.json names is never overwritten.
    name = f"{'step' if keeps == 'state' else 'weights'}-{content['step']:08d}{folder.mark}.pt"
    folder.write(f"{CHECKPOINT}/{name}", data)
    faults.point("checkpoint.written")
    about = {"file": name, "step": content["step"], "sha256": checksum(data), "trial_id": content["trial_id"]}
    folder.write_json(LATEST, {**about, "keeps": keeps})
    faults.point("checkpoint.pointed")
    for other in folder.names(CHECKPOINT):
        if other.endswith(".pt") and other != name and epoch_of(other) <= epoch_of(name):
            folder.delete(f"{CHECKPOINT}/{other}")


def epoch_of(name: str) -> int:
    """The epoch of the lease under which a checkpoint's file was written; 0 outside a sweep."""
    found = re.search(r"-(\d+)-[0-9a-f]+\.pt$", name)
    return int(found[1]) if found else 0


def retire(folder: Folder, state: TrainState) -> None:
    """Keep of a trial that has ended what its placement says: nothing, the weights and their
    average (enough to evaluate, to sample and to export), or the whole state.
    """
    keeps = state.placement.keep
    if keeps == "nothing":
        for name in folder.names(CHECKPOINT):
            folder.delete(f"{CHECKPOINT}/{name}")
        return
    content = state.state_dict()
    if keeps == "weights":
        for arena in (content["weights"]["arena"], content["tables"], content["norms"]):
            for name in RESUMING:
                arena.pop(name, None)
    write(folder, content, keeps=keeps)


def read(folder: Folder) -> dict[str, Any]:
    """What the folder's checkpoint holds. Raises ValueError when it is damaged, FileNotFoundError
    when there is none.
    """
    latest = folder.read_json(LATEST)
    path = folder.at(CHECKPOINT, latest["file"])
    remedy = f"delete {folder.at(CHECKPOINT)} and run again: the trial starts over"
    try:
        data = folder.read(f"{CHECKPOINT}/{latest['file']}")
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint {path} is missing although latest.json names it; {remedy}") from error
    if checksum(data) != latest["sha256"]:
        raise ValueError(f"checkpoint {path} is damaged: its SHA-256 is not the one in latest.json; {remedy}")
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return found


def load(folder: Folder, state: TrainState, *, resume: bool = False) -> bool:
    """Put the folder's checkpoint into the state, if it has one; to `resume`, only one that can be
    trained further. Raises ValueError when it is damaged or of another trial.
    """
    latest = folder.read_json_if_there(LATEST)
    if latest is None:
        return False
    if resume and not can_go_on(latest, state.spec):
        log.warning(
            "trial %s ended after step %d and kept its weights: it starts over", latest["trial_id"], latest["step"]
        )
        return False
    state.load_state_dict(read(folder))
    log.info("trial %s continues after step %d of %d", state.spec.trial_id, state.step, state.spec.steps)
    return True


class Behind:
    """Writes checkpoints behind the training, one at a time.

    What one takes from training is the wait for the copy and what steps beside the writing take
    longer than others (memory, caches and cores are shared), or on a CPU the thread's own work if
    that is more.
    """

    def __init__(self, folder: Folder):
        self.folder = folder
        self._costs: deque[float] = deque(maxlen=LAST)
        self._usual: deque[float] = deque(maxlen=USUAL)
        self._memory: dict[tuple[str, ...], Tensor] = {}  # of the copy, used again
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._copying = self._working = self._slower = 0.0  # seconds, of the one that is being written

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def cost(self) -> float:
        """Seconds that a checkpoint took from training, the median of the last ones; 0 before."""
        return statistics.median(self._costs) if self._costs else 0.0

    def begin(self, state: TrainState) -> None:
        """Copy the state as it is now, and go on writing; the one before must have ended."""
        self.wait()
        began = time.perf_counter()
        copy, event = self._copied(state)
        self._copying, self._working, self._slower = time.perf_counter() - began, 0.0, 0.0
        self._thread = threading.Thread(target=self._write, args=(copy, event), name="checkpoint", daemon=True)
        self._thread.start()

    def after_step(self, seconds: float) -> None:
        """Hear what a step of training took."""
        if self._thread is None:
            self._usual.append(seconds)
            return
        if self._usual:
            usual = statistics.median(self._usual)
            self._slower += min(seconds, STOPPED * usual) - usual
        if not self.is_busy:
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises what went wrong besides the storage."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._error is not None:
            raise self._error
        self._costs.append(self._copying + max(self._working, self._slower))

    def _copied(self, state: TrainState) -> tuple[dict[str, Any], torch.cuda.Event | None]:
        if state.device.type != "cuda" or not state.weights.arena.values.is_cuda:
            return self._copy(state.state_dict()), None
        stream = torch.cuda.Stream(state.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(state.device))
        with torch.cuda.stream(stream):
            copy, event = self._copy(state.state_dict()), stream.record_event()
        state.being_copied = event
        return copy, event

    def _copy(self, value: Any, path: tuple[str, ...] = ()) -> Any:
        """The value with its tensors in this object's memory (pinned for a GPU's)."""
        if isinstance(value, dict):
            return {key: self._copy(inner, (*path, key)) for key, inner in value.items()}
        if not isinstance(value, Tensor):
            return value
        if path not in self._memory:
            self._memory[path] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
        return self._memory[path].copy_(value, non_blocking=True)

    def _write(self, content: dict[str, Any], event: torch.cuda.Event | None) -> None:
        began = time.thread_time()
        try:
            if event is not None:
                event.synchronize()
            faults.point("checkpoint.copied")
            write(self.folder, content)
        except OSError as error:
            log.warning(
                "trial %s: no checkpoint after step %d (%s); training goes on, the checkpoint before it stays",
                content["trial_id"], content["step"], error,
            )  # fmt: skip
        except Exception as error:
            self._error = error
        if event is None:
            self._working = time.thread_time() - began


def save_start(folder: Folder, weights: dict[str, Any]) -> None:
    """Write the weights that a trial with a parent begins with, as `weights.load_weights` takes
    them.
    """
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    folder.write(START, buffer.getvalue())


def begin(folder: Folder, state: TrainState, tokenizer: str) -> None:
    """Fill the weights of a trial that continues another one. tokenizer: the fingerprint of that
    of its tokens. Raises ValueError when they are not in its folder, of another parent, or learned
    other tokens.
    """
    spec = state.spec
    if not folder.exists(START):
        raise ValueError(
            f"trial {spec.trial_id} continues trial {spec.parent}, but {folder.at(START)} is missing; train it with "
            f"`raysparse train --from MODEL`, which writes it"
        )
    weights: dict[str, Any] = torch.load(io.BytesIO(folder.read(START)), map_location="cpu", weights_only=True)
    if weights["trial_id"] != spec.parent:
        raise ValueError(
            f"{folder.at(START)} holds trial {weights['trial_id']}, expected the parent {spec.parent} of trial "
            f"{spec.trial_id}; delete it and train again with `raysparse train --from MODEL`"
        )
    if weights.get("tokenizer", "") not in ("", tokenizer):
        raise ValueError(
            f"trial {spec.parent} learned the tokens of another {spec.data.tokenizer} tokenizer than the one that this "
            f"storage made from {spec.data.corpus!r}; go on in the storage that it was trained in, or on its text"
        )
    load_weights(weights, state.model, state.weights)
