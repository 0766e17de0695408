"""What a trial costs beyond its training: trivial trials through a whole sweep, wall and CPU.

Run it: `python -m benchmarks.overhead --executor inline --trials 200` (or ray). A trial takes two
steps and two evaluations. Its cost is the time from the first row to the last one, less the seconds
of the training steps in those rows, divided by the trials; so what a sweep costs once, its start,
is left out. Inline the same is said in seconds of CPU, which hold on a busy machine too, and what
of them goes to things that a trial is asked for beside its steps: its evaluations, making its model
(initial weights and masks), and the weights that it keeps. `--profile` prints where the time goes
instead of keeping a row.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Results
from raysparse.sweep import runner
from raysparse.sweep.plan import Plan
from raysparse.sweep.settings import Settings
from raysparse.train import checkpoint, hooks, step, trial
from tests.chaos.plans import many
from tests.sweep.plans import write_corpus

# What a trial is asked to do beside its steps, by the function that does it.
ASKED: dict[str, tuple[Any, str]] = {
    "evaluations": (hooks, "evaluate"),
    "model": (trial, "TrainState"),
    "weights kept": (checkpoint, "retire"),
}


class Clock:
    """Counts the CPU of this process from the first row to the last: training steps, what else was
    asked for, and all of it.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("training", *ASKED), 0.0)
        self.marks: list[tuple[float, dict[str, float]]] = []
        self._places = {"training": (step, "train_step"), **ASKED}
        self._before = {name: getattr(*place) for name, place in self._places.items()}
        self._record = Results.record

    def __enter__(self) -> Clock:
        for name, (module, attribute) in self._places.items():
            setattr(module, attribute, self._counted(name))

        def record_row(results: Results, row: dict[str, Any]) -> None:
            self._record(results, row)
            self.marks.append((time.process_time(), dict(self.seconds)))

        Results.record = record_row  # type: ignore[method-assign]
        return self

    def _counted(self, name: str) -> Callable[..., Any]:
        function = self._before[name]

        def counted(*args: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return function(*args, **named)
            finally:
                self.seconds[name] += time.process_time() - begun

        return counted

    def __exit__(self, *_: object) -> None:
        Results.record = self._record  # type: ignore[method-assign]
        for name, (module, attribute) in self._places.items():
            setattr(module, attribute, self._before[name])

    def a_trial(self) -> dict[str, float]:
        """CPU seconds beyond training, of which each thing that was asked for and the rest; empty
        where trials run in other processes.
        """
        if len(self.marks) < 2:
            return {}
        (first, before), (last, after) = self.marks[0], self.marks[-1]
        parts = {name: (after[name] - before[name]) / (len(self.marks) - 1) for name in after}
        beyond = (last - first) / (len(self.marks) - 1) - parts.pop("training")
        return {"CPU s a trial": beyond, **parts, "the rest": beyond - sum(parts.values())}


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
        "wall s": wall, **clock.a_trial(),
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
