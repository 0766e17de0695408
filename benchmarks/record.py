"""How a measurement is kept: rows of numbers with the device, the versions, the date and the
command that made them.

Left out: judging. A benchmark prints and records; only documents draw conclusions, and they name
the file.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Device and versions; torch is asked, so CUDA devices are named where there are any."""
    import torch

    device = (
        torch.cuda.get_device_name(0)
        if torch.cuda.is_available()
        else f"{platform.machine()} CPU, {os.cpu_count()} cores"
    )
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def save(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write benchmarks/results/<name>.json. Absolute paths of this machine are no part of it."""
    said = ["FOLDER" if os.path.isabs(word) else shlex.quote(word) for word in sys.argv[1:]]
    command = " ".join(["python", shlex.quote(os.path.relpath(sys.argv[0])), *said])
    record = {"date": datetime.date.today().isoformat(), "command": command, **machine(), "rows": rows}
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def earlier(name: str) -> list[dict[str, Any]]:
    """The rows of benchmarks/results/<name>.json, for a benchmark that adds to them."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table; all have the keys of the first."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


def alternate(first: Callable[[], Any], second: Callable[[], Any], *, rounds: int = 7) -> tuple[float, float, float]:
    """Median seconds of two functions run in turn, and the median of first / second pair by pair.

    The machine's speed drifts; within a pair it hardly does, so quote the ratio and not the
    seconds.
    """
    pairs = []
    for function in (first, second):
        function()  # warm-up
    for _ in range(rounds):
        pair = []
        for function in (first, second):
            started = time.perf_counter()
            function()
            pair.append(time.perf_counter() - started)
        pairs.append(pair)
    one, two = zip(*pairs, strict=True)
    return statistics.median(one), statistics.median(two), statistics.median(a / b for a, b in pairs)


def break_even(gains: list[tuple[float, float]]) -> float:
    """The density at which tiles cost what dense products do, from (density, how many times faster
    tiles are), between the measured ones; the largest of them where tiles always win.
    """
    gain, density = np.array(sorted((gain, density) for density, gain in gains)).T
    if gain[-1] < 1.0:  # never: time goes with density
        return float(density[-1] * gain[-1])
    return float(np.exp(np.interp(0.0, np.log(gain), np.log(density))))
