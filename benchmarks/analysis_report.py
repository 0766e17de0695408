"""How long the report of a default sweep takes: `python -m analysis report`, from start to end.

The table is what `make sweep` leaves, with a simulated loss: the trials of its grid, and those that
its search asks for after each answer until the budget is spent, under a loss with a moving best
weight decay and rate (`settings_truths.rated`, noise .02). CPU seconds are those of both processes
of the command, imports included; wall seconds mean something on two quiet cores only, so the load
stands beside them. Writes results/analysis_report.json; run `python -m benchmarks.analysis_report`.
With `--tables` finished sweeps are measured instead.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.data.files import write_json
from benchmarks.search_truth import ended
from benchmarks.settings_truths import rated
from raysparse import counts
from raysparse.results import schema
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.base import Known, Purse
from raysparse.sweep.planners.candidates import points_of
from sweeps import grid

RESULTS = Path(__file__).parent / "results"
NOISE = 0.02


def price(spec: TrialSpec) -> float:
    return counts.flops(spec)[1]


def trained(spec: TrialSpec, seed: int) -> Known:
    """A trial as it would end."""
    settings = {name: np.array([getattr(spec.optimizer, name)]) for name in ("weight_decay", "lr")}
    noise = NOISE * np.random.default_rng([seed, int(spec.trial_id, 16)]).standard_normal()
    return ended(spec, float(rated(points_of([spec]), settings)[0] + noise))


def default_sweep(seed: int) -> pa.Table:
    """The results of a default sweep."""
    plan = grid.make_plan(grid.make_parser().parse_args([]))
    assert plan.planner
    assert plan.budget.total
    known = [trained(spec, seed) for spec in plan.specs]
    left = plan.budget.total - sum(price(one.spec) for one in known)
    while asked := plan.planner.ask(known, Purse(left, price)):
        known.append(trained(asked[0], seed))
        known.sort(key=lambda one: one.spec.trial_id)
        left -= price(asked[0])
    return pa.Table.from_pylist([one.row for one in known], schema=schema())


def measured(table: Path, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of the command on one table, each repeat and the least."""
    cpu, wall, load = [], [], []
    for _ in range(repeats):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        command = [sys.executable, "-m", "analysis", "report", str(table), "--output", str(folder / "report")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall.append(time.monotonic() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        load.append(os.getloadavg()[0])
    row = {"cpu_seconds_least": min(cpu), "wall_seconds_least": min(wall), "cpu_seconds": cpu, "wall_seconds": wall}
    return row | {"load": load}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", default=[], help="run folders or tables of default sweeps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="of simulated ones")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tables = {path.name: path for path in asked.tables}
        for seed in [] if tables else asked.seeds:
            tables[f"simulated, seed {seed}"] = folder / f"{seed}.parquet"
            pq.write_table(default_sweep(seed), folder / f"{seed}.parquet")
        for name, path in tables.items():
            rows.append({"table": name} | measured(path, asked.repeats, folder))
            print(rows[-1], flush=True)
    result = {
        "command": "python -m benchmarks.analysis_report" + (" --tables FOLDER ..." if asked.tables else ""),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "rows": rows,
    }
    write_json(RESULTS / "analysis_report.json", result)


if __name__ == "__main__":
    main()
