"""A Hopper that is not there: Triton's whole launch path up to the launch itself, on any machine.

Inside `pretended` a kernel that is called is specialized, compiled to a binary, checked against the
card's shared memory and threads, and handed to a launcher that only writes down that it was called.
So tests call the operations as training does and see what a real launch would compile: an argument
that is 1 becomes a constant there, one that 16 divides a promise. A signature written by hand says
neither.

Limits: nothing is computed (outputs keep what their memory held), and what only the CUDA driver
checks, such as whether it accepts a tensor descriptor, is not checked.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from raysparse.kernels import ops

DEVICE = 99  # no real device's number: kernels compiled here are never found by a real launch
LIMITS = {"max_shared_mem": 232_448, "multiprocessor_count": 132, "max_num_regs": 65_536, "warpSize": 32}
THREADS = 1024  # that a block may have

_binaries: dict[int, bytes] = {}  # by the handle that stands for a loaded function


class Launch(NamedTuple):
    """One launch that would have been."""

    kernel: str
    grid: tuple[int, int, int]
    binary: bytes  # for sm_90


class _Loader:
    """Stands for the compiled helper that loads binaries and knows the card."""

    def load_binary(self, _name: str, binary: bytes, _shared: int, _device: int) -> tuple[int, int, int, int, int]:
        handle = len(_binaries) + 1
        _binaries[handle] = binary
        return handle, handle, 0, 0, THREADS  # module, function, registers, spills, threads

    def get_device_properties(self, _device: int) -> dict[str, int]:
        return LIMITS


class _Launcher:
    """Writes launches down, for whichever stub is active."""

    def __init__(self, _source: Any, metadata: Any):
        self.kernel = metadata.name

    def __call__(self, x: int, y: int, z: int, _stream: int, function: int, *_arguments: Any) -> None:
        driver.active.launches.append(Launch(self.kernel, (x, y, z), _binaries[function]))


class _Driver(DriverBase):
    launcher_cls = _Launcher

    def __init__(self) -> None:
        self.utils = _Loader()
        self.launches: list[Launch] = []

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_device(self) -> int:
        return DEVICE

    def get_current_stream(self, _device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError(f"{ty}: no launcher is compiled for the stub")

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("nothing runs on the stub, so nothing can be timed on it")


@contextlib.contextmanager
def pretended() -> Iterator[list[Launch]]:
    """Operations on CPU tensors take Triton and the stub inside the `with`; yields the launches so
    far.
    """
    before, stub = driver._active, _Driver()
    driver.set_active(stub)
    try:
        with ops.using("triton"):
            yield stub.launches
    finally:
        driver.set_active(before)


def spilled_bytes(binary: bytes, folder: Path) -> int:
    """Bytes of registers a thread that the assembler could not keep, from its own report."""
    report = _disassembled(binary, folder, "-res-usage")
    return sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", report))


def code(binary: bytes, folder: Path) -> str:
    """The machine's instructions as text."""
    return _disassembled(binary, folder, "-sass")


def instructions(binary: bytes, folder: Path) -> int:
    """How many the code has, those that only fill it up left out."""
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", code(binary, folder), re.MULTILINE)
    return len(found) - found.count("NOP")


def _disassembled(binary: bytes, folder: Path, what: str) -> str:
    file = folder / "kernel.cubin"
    file.write_bytes(binary)
    command = [triton.knobs.nvidia.cuobjdump.path, what, str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
