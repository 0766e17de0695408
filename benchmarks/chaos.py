"""The chaos run: a sweep of 60 trials under at least 60 blows of every kind, and a verdict.

Run it: `python -m benchmarks.chaos --storage FOLDER --seed 1`, as root for the full disk (a small
tmpfs of its own; left out with a word elsewhere). With `--minutes` it may be run in parts: a call
whose time is over leaves the sweep as the last blow left it and ends with status 3, and the same
call goes on. The blows and what must hold afterwards are those of the tests
(`tests/chaos/storm.py`, `verdict.py`); the undisturbed sweep beside it runs inline. The most
fragile executors come first, while there is work enough. Left out: more machines than one
(`tests/cluster`).
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import record
from raysparse.sweep.plan import Plan
from tests.chaos import verdict
from tests.chaos.plans import many
from tests.chaos.storm import BLOWS, Storm
from tests.chaos.sweeps import Forked
from tests.sweep.plans import write_corpus

TRIALS = 60
TO_BE_CONTINUED = 3  # exit status
DISK = "96m"
UNDISTURBED = 3600.0  # seconds


def plan_in(base: Path, epochs: float) -> Plan:
    return many(write_corpus(base / "text"), TRIALS, epochs=epochs)


def own_disk(storage: Path) -> bool:
    """Mount a small disk of its own at `storage`; False where that is not allowed."""
    storage.mkdir(parents=True, exist_ok=True)
    if storage.is_mount():
        return True
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(storage)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def undisturbed(base: Path, plan: Plan) -> verdict.Losses:
    storage = base / "undisturbed"
    if not (storage / "run" / "results.parquet").exists():
        Forked(plan, storage).wait(UNDISTURBED)
    return verdict.losses(storage / "run")


def row_of(storm: Storm, wrong: list[str], seconds: float) -> dict[str, Any]:
    modes = Counter(blow["mode"] for blow in storm.blows)
    return {
        "seed": storm.seed, "trials": TRIALS, "blows": len(storm.blows), **{mode: modes[mode] for mode in BLOWS},
        "sessions": storm.sessions, "samples of the ledger": storm.samples, "minutes": round(seconds / 60, 1),
        "wrong": len(wrong), "kinds": dict(sorted(Counter(blow["blow"] for blow in storm.blows).items())),
        "said": wrong,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blows", nargs="*", default=["cluster=10", "ray=30", "inline=20"], metavar="MODE=N")
    parser.add_argument(
        "--epochs", type=float, default=10, help="of every trial; 8 steps each; with 4 it ends before 60"
    )
    parser.add_argument("--storage", type=Path, required=True, help="an empty folder, or that of an earlier part")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of this part at most, its end left out")
    args = parser.parse_args()
    plan, end = plan_in(args.storage, args.epochs), time.monotonic() + 60 * args.minutes
    expected = undisturbed(args.storage, plan)
    storage = args.storage / f"seed-{args.seed}"
    if not own_disk(storage):
        print("no disk of its own can be mounted here: the blow 'disk' is left out", file=sys.stderr)
    storm, begun = Storm(plan, storage, args.seed), time.monotonic()
    for wish in args.blows:
        mode, _, count = wish.partition("=")
        storm.blow_and_resume(mode, int(count), end - time.monotonic())
    storm.seconds += time.monotonic() - begun
    if time.monotonic() > end:
        storm.save()
        print(f"{len(storm.blows)} blows so far: the same call goes on")
        return TO_BE_CONTINUED
    storm.finish()
    wrong = storm.faults(expected)
    rows = [row for row in record.earlier("chaos") if row["seed"] != args.seed] + [row_of(storm, wrong, storm.seconds)]
    rows.sort(key=lambda row: row["seed"])
    record.show("chaos", [{key: value for key, value in row.items() if key not in ("kinds", "said")} for row in rows])
    print("\n".join(wrong) or "nothing is wrong")
    print(f"kept in {record.save('chaos', rows)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
