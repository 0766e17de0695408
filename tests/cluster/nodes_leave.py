"""Ten times, at a random moment, a node leaves a cluster without a word and another one comes:
every trial of the sweep has one row, and the losses are those of an undisturbed sweep.

    python -m tests.cluster.nodes_leave [--moments 10] [--seed 0] [--epochs 16 24]

Nodes are Ray's own on this machine (`ray.cluster_utils`), not an autoscaler's: what the sweep sees
of them is the same. Prints each loss of a node, and a verdict; the exit status is 1 if it is bad.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.sweep import runs
from tests.sweep.machines import Machines, start
from tests.sweep.plans import small_plan, write_corpus


def add(machines: Machines) -> None:
    """On a busy machine Ray gives up on a node that takes long to start; then another one comes."""
    for tries_left in (2, 1, 0):
        try:
            return machines.add()
        except Exception as error:
            print(f"a node did not start: {error}", flush=True)
            if not tries_left:
                raise
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs=2, default=[16, 24], help="of the trials, short and long")
    parser.add_argument("--folder", type=Path, help="keep everything there (default: a temporary folder)")
    args = parser.parse_args()
    moments, folder = random.Random(args.seed), args.folder or Path(tempfile.mkdtemp(prefix="nodes-leave-"))
    plan = small_plan(write_corpus(folder / "text"), densities=(1.0, 0.5, 0.25), epochs=args.epochs)
    if not (folder / "undisturbed" / "run" / "results.parquet").exists():
        runs.finish(plan, folder / "undisturbed", "--executor", "inline")
    machines, storage, began = Machines(2), folder / "disturbed", time.monotonic()
    try:
        driver = start(plan, storage, machines, "--slots", "2")
        for n in range(args.moments):
            time.sleep(moments.uniform(1.0, 10.0))
            if driver.poll() is not None:
                print(f"the sweep was over after {n} losses")
                break
            machines.lose(moments.choice(machines.nodes))
            print(
                f"{time.monotonic() - began:6.1f} s: node {n + 1} lost, {len(runs.journal(storage))} rows", flush=True
            )
            add(machines)
        status = driver.wait(600)
    finally:
        machines.close()
    found, expected = runs.losses(storage), runs.losses(folder / "undisturbed")
    verdict = {
        "losses_of_nodes": n + 1,
        "seconds": round(time.monotonic() - began, 1),
        "exit_status": status,
        "rows": len(found),
        "trials": len(plan.specs),
        "bit_for_bit": found == expected,
    }
    print(json.dumps(verdict))
    return 0 if status == 0 and found == expected else 1


if __name__ == "__main__":
    sys.exit(main())
