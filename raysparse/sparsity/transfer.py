"""From the CPU to a device without making the host wait.

A copy out of ordinary memory waits for everything that the device has been given before; one out of
pinned memory is only put in line. torch keeps pinned memory for as long as a copy needs it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor on the device; itself on a CPU."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
