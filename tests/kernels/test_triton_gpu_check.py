"""The script for GPU machines, run in Triton's interpreter: it must not be found broken when a GPU
is lent for an hour.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


SECTIONS = [
    "no_waiting", "a_trial", "whole_steps", "profile", "real_shapes", "adam", "storage", "tile_products", "tile_cuts",
    "head", "between_products",
]  # fmt: skip


def test_smoke_run_writes_a_row_for_every_check_and_measurement(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--smoke", "--seconds", "3600", "--out", tmp_path,
         "--only", *SECTIONS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = [json.loads(line) for line in (tmp_path / "gpu_check.jsonl").read_text().splitlines()]
    assert {"date", "command", "device", "torch", "triton"} <= set(head)
    assert {row["section"] for row in rows if row.get("what") != "condition"} == set(SECTIONS)
    assert all(row.get("equal", True) for row in rows)
    assert (tmp_path / "trace-tiny.json").exists()


def test_a_call_should_take_less_than_eight_minutes():
    """By its own estimate for an H100, whose calls end after ten."""
    from benchmarks.gpu_check import SECTIONS as ALL

    calls = ([s for s in ALL.values() if s.is_first], [s for s in ALL.values() if not s.is_first])
    assert all(sum(section.seconds for section in call) < 480 for call in calls)
    assert set(SECTIONS) == set(ALL) - {"small_shapes"}, "which the tests interpret on their own"


def test_a_row_that_fails_leaves_the_others_and_rows_come_one_by_one(tmp_path):
    """A measurement that raises becomes a row; rows before it are there already, those after it are
    made; when time is over, rows say so.
    """
    from benchmarks import gpu_check
    from benchmarks.gpu_bench import Bench

    seen = []

    def section(bench):
        for n in range(3):
            yield {"n": n}, lambda n=n: {"inverse": 1 / (n - 1)}

    bench = Bench(smoke=True)
    sections = {"some": gpu_check.Section(section, 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "SECTIONS", sections)
        for row in gpu_check.rows_of(bench, ["some"], tmp_path, math.inf):
            seen.append(row)
            if row.get("n") == 0:
                assert len(seen) == 2, "before anything of the next is computed"
        late = list(gpu_check.rows_of(bench, ["some"], tmp_path, 0.0))
    assert [row.get("inverse") for row in seen[1:]] == [-1.0, None, 1.0]
    assert "ZeroDivisionError" in seen[2]["error"]
    assert all(row["left out"] for row in late[1:])
