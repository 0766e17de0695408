"""Whole steps of this checkout against those of another commit, each in a process of its own.

Rows of two days cannot be compared: a machine drifts by a twentieth in ratios and by two fifths in
seconds. Here both versions are alive at once and step in turn, so that drift meets both alike. The
other commit needs `trial` and `stepper` in its own `benchmarks/step.py` and must run in today's
environment. Writes results/step_against.json; `python -m benchmarks.step_against COMMIT` (seven
minutes on two quiet cores).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.step import OTHERS, PRECISIONS, SPARSE

ROOT = Path(__file__).parents[1]
CHILD = """
import json, sys, time
import torch
from benchmarks.step import stepper, trial
wanted = json.loads(sys.argv[1])
torch.set_num_threads(wanted.pop("threads"))
step = stepper(trial(wanted.pop("precision"), wanted.pop("hidden"), **wanted))
step(), step()
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    step()
    print(time.perf_counter() - began, flush=True)
"""


class Stepper:
    """A process that trains one step of a checkout's code whenever it is asked."""

    def __init__(self, checkout: Path, wanted: dict[str, Any]):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, json.dumps(wanted)],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def seconds(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def __enter__(self) -> Stepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # it ends with its input

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a step of {self.process.args!r} failed; its error is above")
        return line


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The files of a commit in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder)


def commit_of(name: str) -> str:
    found = subprocess.run(["git", "rev-parse", "--short", name], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return found.stdout.decode().strip()


def trials(threads: int) -> Iterator[dict[str, Any]]:
    """The tile steps of `benchmarks.step`, and dense ones beside them."""
    for precision in PRECISIONS:
        for hidden, densities in OTHERS.items():
            shape = {"precision": precision, "hidden": hidden, "threads": threads}
            yield {**shape, "method": "dense", "density": 1.0}
            for layout in (SPARSE["tile 64"], SPARSE["tile 128"]):
                for density in densities:
                    yield {**shape, **layout, "density": density}


def compare(other: Path, wanted: dict[str, Any], rounds: int) -> dict[str, Any]:
    """A row: medians of both, the median of their ratio pair by pair, and its quartiles."""
    pairs = []
    with Stepper(other, wanted) as before, Stepper(ROOT, wanted) as now:
        for turn in range(rounds):
            order = (before, now) if turn % 2 else (now, before)
            seconds = {stepper: stepper.seconds() for stepper in order}
            pairs.append((seconds[before], seconds[now]))
    low, middle, high = statistics.quantiles([first / second for first, second in pairs], n=4)
    return {
        "dtype": wanted["precision"],
        "hidden": wanted["hidden"],
        "layout": f"tile {wanted['block']}" if "block" in wanted else "dense",
        "density": wanted["density"],
        "before s": statistics.median(first for first, _ in pairs),
        "now s": statistics.median(second for _, second in pairs),
        "before / now": middle,
        "quartiles": [round(low, 3), round(high, 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what the steps of this checkout are held against")
    parser.add_argument("--rounds", type=int, default=9, help="pairs of each comparison (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds is {args.rounds}, expected 2 or more, for quartiles")
    torch.set_num_threads(args.threads)  # as the children have it, for the record
    fixed = {"before": commit_of(args.commit), "now": commit_of("HEAD"), "rounds": args.rounds}
    with checkout(args.commit) as other:
        rows = [compare(other, each, args.rounds) for each in trials(args.threads)]
    record.show(f"Whole steps: {args.commit} against this checkout", rows)
    print(record.save("step_against", [fixed | row for row in rows]))


if __name__ == "__main__":
    main()
