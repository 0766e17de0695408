"""`kernels.c`, compiled for this processor by this machine's own C compiler at the first use, and
kept in the user's cache.

One C file and ctypes, because an extension module would have to be built for every Python, torch
and processor that there is, and the compiler is on most machines that train. It takes a second,
once: the library's name holds what it was made of. Two processes that make it at once both make it,
and the last one's stays. Without it everything goes on in torch, after one warning; results are
then the same to rounding. RAYSPARSE_KERNELS=torch in the environment asks for that.

Threads are OpenMP's, and gcc's library of them is on Linux the one that torch has loaded by then,
so both share one pool.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kernels.c")
ASKED = "RAYSPARSE_KERNELS"
ALWAYS = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-lm")
# The first that the compiler takes: Apple's knows no OpenMP, some do not know the processor.
TRIED = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ())
# By what a function's name begins with: how many tensors it takes and how many sizes; then threads.
TAKES = {"expand": (4, 2), "compact": (4, 2), "accumulate": (2, 1), "cross_entropy": (3, 2), "adam": (8, 2)}


class NoLibrary(Exception):  # noqa: N818  (a machine's way to be, not a fault)
    """Why there are no kernels in C."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where torch has to do: because it was asked for, or, which is
    warned of, because there is no other way.
    """
    if not is_wanted():
        return None
    try:
        return load()
    except NoLibrary as reason:
        warnings.warn(f"{reason}: a training step on this CPU takes the slower kernels of torch", stacklevel=3)
        return None


def is_wanted() -> bool:
    """Raises ValueError if the environment asks for what there is not."""
    asked = os.environ.get(ASKED, "native")
    if asked not in ("native", "torch"):
        raise ValueError(f"the environment's {ASKED} is {asked!r}: expected 'native' or 'torch'")
    return asked == "native"


@functools.cache
def function(name: str) -> Any:
    """The compiled function of this name, which knows its arguments' types, or None."""
    found = getattr(library(), name, None)
    if found is not None:
        tensors, sizes = next(takes for begin, takes in TAKES.items() if name.startswith(begin))
        found.argtypes = [ctypes.c_void_p] * tensors + [ctypes.c_int64] * sizes + [ctypes.c_int]
        found.restype = None
    return found


def load() -> ctypes.CDLL:
    """The library, compiled if none is there that can be loaded. Raises NoLibrary, with the
    reason.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "cc", "clang"))), None)
    if compiler is None:
        raise NoLibrary("there is no C compiler (gcc, cc or clang)")
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raysparse"
    except RuntimeError as error:  # of a user without a name, as in some containers
        raise NoLibrary(f"compiled kernels have no folder ({error}); XDG_CACHE_HOME names one") from None
    kept = folder / f"kernels-{_made_of(compiler)}.so"
    try:
        with contextlib.suppress(OSError):  # it is not there yet, or no library
            return ctypes.CDLL(str(kept))
        folder.mkdir(parents=True, exist_ok=True)
        return _compile(compiler, kept)
    except OSError as error:
        where = f"compiled kernels cannot be kept in {folder}, or loaded from there ({error})"
        raise NoLibrary(f"{where}; XDG_CACHE_HOME names another place") from None


def _made_of(compiler: str) -> str:
    """The source, the flags, the compiler and the machine, as a name."""
    machine = [sys.platform, *platform.libc_ver(), _processor()]  # an older C library cannot load what a newer made
    made_of = [SOURCE.read_text(), repr((ALWAYS, TRIED)), os.path.realpath(compiler), *machine]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]


def _processor() -> str:
    """What it can do, so that a home folder which two machines share holds a library for each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    return " ".join([platform.machine(), *(told.get(key, "") for key in ("model name", "flags", "Features"))])


def _compile(compiler: str, kept: Path) -> ctypes.CDLL:
    """Make the file, whole or not at all, by the first flags of which a library comes that can be
    loaded: some compilers take OpenMP's and have none. Raises NoLibrary or OSError for the last.
    """
    reason: Exception
    with tempfile.TemporaryDirectory(dir=kept.parent) as place:
        made = Path(place) / kept.name
        for flags in TRIED:
            call = [compiler, *flags, str(SOURCE), "-o", str(made), *ALWAYS]
            done = subprocess.run(call, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode != 0:
                said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
                reason = NoLibrary(f"{compiler} cannot compile {SOURCE.name} ({said})")
                continue
            try:
                found = ctypes.CDLL(str(made))
            except OSError as error:
                reason = error
                continue
            with made.open("rb") as file:
                os.fsync(file.fileno())  # half a library would end every process that loads it
            made.replace(kept)
            return found
    raise reason
