"""What a trial costs beyond its training: trivial trials through a whole sweep, wall and CPU.

Run it: `python -m benchmarks.overhead --executor inline --trials 200` (or ray). A trial takes two
steps and two evaluations. Its cost is the time from the first row to the last one, less the seconds
of the training steps in those rows, divided by the trials; so what a sweep costs once, its start,
is left out. Inline the same is said in seconds of CPU, which hold on a busy machine too.
`--profile` prints where the time goes instead of keeping a row.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
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
from raysparse.train import step
from tests.chaos.plans import many
from tests.sweep.plans import write_corpus


class Clock:
    """Counts the CPU of this process, training steps apart, from the first row to the last."""

    def __init__(self) -> None:
        self.training = 0.0
        self.marks: list[tuple[float, float]] = []
        self._step, self._record = step.train_step, Results.record

    def __enter__(self) -> Clock:
        def train_step(*args: Any) -> Any:
            begun = time.process_time()
            done = self._step(*args)
            self.training += time.process_time() - begun
            return done

        def record_row(results: Results, row: dict[str, Any]) -> None:
            self._record(results, row)
            self.marks.append((time.perf_counter(), time.process_time() - self.training))

        step.train_step, Results.record = train_step, record_row  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        step.train_step, Results.record = self._step, self._record  # type: ignore[method-assign]

    @property
    def cpu_a_trial(self) -> float | None:
        """Seconds beyond training; None where trials run in other processes."""
        if len(self.marks) < 2:
            return None
        return (self.marks[-1][1] - self.marks[0][1]) / (len(self.marks) - 1)


def measured(plan: Plan, storage: Path, settings: Settings) -> dict[str, Any]:
    begun, began_at = time.perf_counter(), time.time()
    with Clock() as clock:
        summary = runner.run(plan, Folder(storage), "run", settings)
    wall = time.perf_counter() - begun
    assert summary.is_complete, summary.unfinished
    ended = sorted(path.stat().st_mtime for path in (storage / "run" / "journal").iterdir())
    rows = Results(Folder(storage / "run")).rows()
    training, slots = sum(row["seconds"] for row in rows), max(1, settings.slots)
    between = len(rows) - 1
    return {
        "executor": settings.executor, "trials": len(rows), "slots": slots,
        "s a trial": (ended[-1] - ended[0]) / between - training / len(rows) / slots,
        "training s a trial": training / len(rows), "first row s": ended[0] - began_at,
        "wall s": wall, "CPU s a trial": clock.cpu_a_trial,
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
            profile = cProfile.Profile(time.process_time)
            profile.runcall(measured, plan, Path(base), settings)
            pstats.Stats(profile).sort_stats("cumulative").print_stats(70)
            return
        row = measured(plan, Path(base), settings) | {"note": args.note}
    record.show("what a trial costs beyond its training", [row])
    record.save("overhead", [*record.earlier("overhead"), row])


if __name__ == "__main__":
    main()
