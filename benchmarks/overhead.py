"""What a trial costs beyond its training: trivial trials through a whole sweep, wall and CPU.

Run it: `python -m benchmarks.overhead --executor inline --trials 200` (or ray). A trial takes two
steps. Its cost is the time from the first row to the last one, less the seconds of the training
steps in those rows, divided by the trials; so what a sweep costs once, its start, is left out and
said beside it. CPU is that of the process and its children, start included. `--profile` prints
where the time goes instead of keeping a row.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Results
from raysparse.sweep import runner
from raysparse.sweep.plan import Plan
from raysparse.sweep.settings import Settings
from tests.chaos.plans import many
from tests.sweep.plans import write_corpus


def cpu_seconds() -> float:
    own, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + theirs.ru_utime + theirs.ru_stime


def measured(plan: Plan, storage: Path, settings: Settings) -> dict[str, Any]:
    cpu, begun, began_at = cpu_seconds(), time.perf_counter(), time.time()
    summary = runner.run(plan, Folder(storage), "run", settings)
    wall, cpu = time.perf_counter() - begun, cpu_seconds() - cpu
    assert summary.is_complete, summary.unfinished
    ended = sorted(path.stat().st_mtime for path in (storage / "run" / "journal").iterdir())
    rows = Results(Folder(storage / "run")).rows()
    training, slots = sum(row["seconds"] for row in rows), max(1, settings.slots)
    between = len(rows) - 1
    return {
        "executor": settings.executor, "trials": len(rows), "slots": slots,
        "s a trial": (ended[-1] - ended[0]) / between - training / len(rows) / slots,
        "training s a trial": training / len(rows), "first row s": ended[0] - began_at,
        "wall s": wall, "CPU s a trial": cpu / len(rows),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print where an inline sweep spends its time")
    parser.add_argument("--note", default="", help="kept in the row: which state of the code it measures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        plan = many(write_corpus(Path(base) / "text"), args.trials, epochs=1, batch=8)
        plan = plan.replace(placement=Placement())
        settings = Settings(executor=args.executor, slots=args.slots if args.executor == "ray" else 0)
        if args.profile:
            profile = cProfile.Profile()
            profile.runcall(measured, plan, Path(base), settings)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
            return
        row = measured(plan, Path(base), settings) | {"note": args.note}
    record.show("what a trial costs beyond its training", [row])
    record.save("overhead", [*record.earlier("overhead"), row])


if __name__ == "__main__":
    main()
