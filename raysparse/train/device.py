"""The device of a trial: whether it is there, what it holds, and how a trial is cut to fit it.

Everything is decided by the size of the device, never by what happens to be free on it, so that a
trial that is resumed on the same card is cut as before and continues bit for bit.
"""

from __future__ import annotations

import torch

from raysparse import memory
from raysparse.placement import Placement
from raysparse.spec import TrialSpec


def found(name: str) -> torch.device:
    """The device of that name. Raises ValueError with what there is when it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"placement.device is {name!r}, expected cpu, cuda, or cuda:NUMBER") from error
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        cards = "no GPU" if not there else "cuda:0" if there == 1 else f"cuda:0 to cuda:{there - 1}"
        raise ValueError(
            f"placement.device is {name!r}, but torch finds {cards} here; say a device that is there, or cpu"
        )
    return device


def memory_bytes(device: torch.device) -> int:
    """Of a GPU; 0 for a CPU, whose trials take what they need."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0


def fitted(spec: TrialSpec, placement: Placement) -> Placement:
    """The placement with micro-batch and recomputation chosen for this machine's device. Raises
    ValueError when the device is not there.
    """
    return memory.fitted(spec, placement, memory_bytes(found(placement.device)))


def begin(device: torch.device) -> None:
    """Make it the current device, and forget the memory of the trial before."""
    if device.type != "cuda":
        return
    if device.index is not None:  # "cuda" is the current device: a Ray worker's own
        torch.cuda.set_device(device)  # kernels launch on the current device
    torch.cuda.empty_cache()  # for the other workers of this card
    torch.cuda.reset_peak_memory_stats(device)
