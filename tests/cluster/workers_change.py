"""A trial on two machines of which one is lost and comes back, and then a third one comes: the same
global batch all the while, and a loss that differs from one worker's by rounding only.

    python -m tests.cluster.workers_change

Machines are Ray's own on this machine (`ray.cluster_utils`). `benchmarks/results/` gets
`cluster_workers.json`: when which number of workers trained, and the largest difference of a loss
from the same trial in one process. The exit status is 1 if that is more than rounding, or the third
worker never came. Left out: how long a real machine takes to come.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, OptimizerSpec
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.recipe import Recipe
from tests.sweep import runs
from tests.sweep.machines import Machines, start
from tests.sweep.plans import VALIDATION, write_corpus

AWAY = 15.0  # seconds that a machine is away
PATIENCE = 900.0  # seconds for the third worker; Ray Train looks for more machines once a minute
ROUNDING = 2e-3  # nats, of a loss after hundreds of steps; another order of sums is amplified by each


def plan_of(corpus: str, epochs: float) -> Plan:
    """One trial of 6 steps an epoch on up to three workers, at a rate so low that rounding does not
    grow on the way.
    """
    recipe = Recipe(
        vocab_size=257, context=256, data=DataSpec(corpus=corpus, validation_tokens=VALIDATION),
        optimizer=OptimizerSpec(batch_sequences=24),
    )  # fmt: skip
    spec = recipe.spec("laptop-m", 0.25, 36_865, epochs).with_field("optimizer.lr", 1e-4)
    return Plan(specs=(spec,), placement=Placement(workers=3, checkpoint_seconds=1.0))


class Watch:
    """What the trial says of itself while it runs."""

    def __init__(self, storage: Path, machines: Machines):
        self.storage, self.machines, self.began = storage, machines, time.monotonic()
        self.seen: list[dict[str, Any]] = []

    def step(self) -> int:
        """Of its last checkpoint."""
        [*found] = self.storage.glob("run/trials/*/checkpoint/latest.json")
        return int(json.loads(found[0].read_text())["step"]) if found else 0

    def note(self, what: str) -> None:
        row = {"what": what, "workers": len(self.machines.workers()), "step": self.step()}
        self.seen.append({**row, "seconds": round(time.monotonic() - self.began, 1)})
        print(self.seen[-1], flush=True)

    def is_trained_by(self, workers: int) -> bool:
        """Whether so many train now and have come further than when something was noted last."""
        return len(self.machines.workers()) == workers and self.step() > self.seen[-1]["step"]

    def wait_for(self, workers: int) -> bool:
        """False when the trial ended before, or in all that time."""
        end = time.monotonic() + PATIENCE
        while not self.is_trained_by(workers):
            if time.monotonic() > end or list(self.storage.glob("run/journal/*.json")):
                return False
            time.sleep(0.2)
        return True


def disturbed(plan: Plan, storage: Path) -> list[dict[str, Any]]:
    """Train the trial on machines that come and go; what happened, in order."""
    machines = Machines(2)
    watch = Watch(storage, machines)
    try:
        watch.note("two machines")
        driver = start(plan, storage, machines, "--slots", "1", "--min-workers", "2")
        if watch.wait_for(2):
            watch.note("two workers train")
            machines.lose(machines.nodes[0])
            watch.note("one machine lost")
            time.sleep(AWAY)
            machines.add()
            watch.note("it is back")
        if watch.wait_for(2):
            watch.note("two workers train again")
            machines.add()
            watch.note("a third machine")
        if watch.wait_for(3):
            watch.note("three workers train")
        status = driver.wait(PATIENCE)
        assert status == 0, (storage / "log.txt").read_text()
    finally:
        machines.close()
    return watch.seen


def logged(storage: Path) -> dict[int, dict[str, float]]:
    """What was logged of the trial, by step."""
    [log] = storage.glob("run/trials/*/metrics.jsonl")
    return {line["step"]: line for line in map(json.loads, log.read_text().splitlines())}


def differences(found: dict[int, dict[str, float]], alone: dict[int, dict[str, float]]) -> dict[str, float]:
    """The largest differences of training and validation losses, nats."""
    assert found.keys() == alone.keys(), "every step that is logged is logged once"
    return {
        name: max(abs(found[step][name] - line[name]) for step, line in alone.items() if name in line)
        for name in ("loss", "validation_loss")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=float, default=128, help="6 steps each, enough that the third machine is used")
    parser.add_argument("--folder", type=Path, help="keep everything there (default: a temporary folder)")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="workers-change-"))
    plan = plan_of(write_corpus(folder / "text"), args.epochs)
    alone = folder / "alone"
    if not (alone / "run" / "results.parquet").exists():
        one = plan.replace(placement=plan.placement.replace(workers=1))
        runs.undisturbed(one, alone)
    seen = disturbed(plan, folder / "disturbed")
    apart = differences(logged(folder / "disturbed"), logged(alone))
    [row] = Results(RunFolder.named(Folder(folder / "disturbed"), "run")).rows()
    verdict = {
        "steps": row["steps"], "sequences a step": plan.specs[0].optimizer.batch_sequences,
        "workers at the end": row["workers"], "validation loss": row["validation_loss"],
        "largest difference": apart, "what happened": seen,
    }  # fmt: skip
    print(json.dumps({key: value for key, value in verdict.items() if key != "what happened"}))
    print(f"kept in {record.save('cluster_workers', [verdict])}")
    return 0 if row["workers"] == 3 and max(apart.values()) <= ROUNDING else 1


if __name__ == "__main__":
    sys.exit(main())
