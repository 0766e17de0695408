"""The script for GPU machines, run in Triton's interpreter: it must not be found broken when a GPU
is lent for an hour.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_smoke_run_writes_a_row_for_every_check_and_measurement(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--smoke", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {"date", "command", "device", "torch", "triton"} <= set(written)
    assert {row["section"] for row in written["rows"]} == {
        "no_waiting",
        "real_shapes",
        "adam",
        "storage",
        "tile_products",
        "head",
        "whole_steps",
    }
    assert all(row.get("equal", True) for row in written["rows"])
