"""Checkpoints: the whole state of a run, atomic, with a checksum. Local disk or object store alike.

`checkpoint/step-<n>.pt` is written first, `checkpoint/latest.json` (its name, step and SHA-256)
after it, the older file is deleted last; killed anywhere in between, the folder still holds one
whole checkpoint. All ranks hold the same state, so rank 0 writes and every rank reads. Left out:
keeping a history of checkpoints.
"""

from __future__ import annotations

import io
import logging
from typing import Any

import torch

from raysparse.files import Folder, checksum
from raysparse.run_folder import CHECKPOINT, LATEST, START
from raysparse.train.state import TrainState
from raysparse.train.weights import load_weights

log = logging.getLogger(__name__)


def save(folder: Folder, state: TrainState) -> None:
    """Write the state as the folder's only checkpoint."""
    buffer = io.BytesIO()
    torch.save(state.state_dict(), buffer)
    data = buffer.getvalue()
    name = f"step-{state.step:08d}.pt"
    folder.write(f"{CHECKPOINT}/{name}", data)
    folder.write_json(
        LATEST, {"file": name, "step": state.step, "sha256": checksum(data), "trial_id": state.spec.trial_id}
    )
    for other in folder.names(CHECKPOINT):
        if other.endswith(".pt") and other != name:
            folder.delete(f"{CHECKPOINT}/{other}")


def read(folder: Folder) -> dict[str, Any]:
    """What the folder's checkpoint holds. Raises ValueError when it is damaged, FileNotFoundError
    when there is none.
    """
    latest = folder.read_json(LATEST)
    path = f"{folder.uri}/{CHECKPOINT}/{latest['file']}"
    remedy = f"delete {folder.uri}/{CHECKPOINT} and run again: the trial starts over"
    try:
        data = folder.read(f"{CHECKPOINT}/{latest['file']}")
    except FileNotFoundError as error:
        raise ValueError(f"checkpoint {path} is missing although latest.json names it; {remedy}") from error
    if checksum(data) != latest["sha256"]:
        raise ValueError(f"checkpoint {path} is damaged: its SHA-256 is not the one in latest.json; {remedy}")
    found: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return found


def load(folder: Folder, state: TrainState) -> bool:
    """Continue from the folder's checkpoint if it has one. Raises ValueError when it is damaged or
    of another trial.
    """
    if not folder.exists(LATEST):
        return False
    state.load_state_dict(read(folder))
    log.info("trial %s continues after step %d of %d", state.spec.trial_id, state.step, state.spec.steps)
    return True


def save_start(folder: Folder, weights: dict[str, Any]) -> None:
    """Write the weights that a trial with a parent begins with, as `weights.load_weights` takes
    them.
    """
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    folder.write(START, buffer.getvalue())


def begin(folder: Folder, state: TrainState) -> None:
    """Fill the weights of a trial that continues another one. Raises ValueError when they are not
    in its folder, or of another parent.
    """
    spec = state.spec
    if not folder.exists(START):
        raise ValueError(
            f"trial {spec.trial_id} continues trial {spec.parent}, but {folder.uri}/{START} is missing; train it with "
            f"`raysparse train --from MODEL`, which writes it"
        )
    weights: dict[str, Any] = torch.load(io.BytesIO(folder.read(START)), map_location="cpu", weights_only=True)
    if weights["trial_id"] != spec.parent:
        raise ValueError(
            f"{folder.uri}/{START} holds trial {weights['trial_id']}, expected the parent {spec.parent} of trial "
            f"{spec.trial_id}; delete it and train again with `raysparse train --from MODEL`"
        )
    load_weights(weights, state.model, state.weights)
