"""What checkpoints cost: time of training with one every second against none, and bytes on disk of
trials that have ended.

Run it: `python -m benchmarks.checkpoints` (eight minutes on two cores). Stretches of the same
training run in turn, with and without checkpoints, so the ratio holds although the machine's speed
drifts; waiting for the last file is part of a stretch with them. Training has one thread; the
writing may take the other core. CPU seconds of the whole process stand beside, which another
program on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from raysparse import ladder
from raysparse.files import Folder
from raysparse.placement import Keep, Placement
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import checkpoint
from raysparse.train.hooks import Checkpoint
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState
from raysparse.train.step import train_step

WARM_UP = 4  # checkpoints
KEPT: tuple[Keep, ...] = ("state", "weights", "nothing")
LEAST_SECONDS = 20.0  # of a stretch: at its end it waits for the last file, which a trial does once
TIMED: dict[str, dict[str, Any]] = {  # size: sparsity
    "laptop-l": {"method": "dense", "density": 1.0},
    "dc-20m": {"method": "smet", "density": 0.25},
}


class Counted(Checkpoint):
    """Knows how many it began."""

    begun_so_far = 0

    def _save(self, state: TrainState) -> None:
        self.begun_so_far += 1
        super()._save(state)


def trial(size: str, **sparsity: Any) -> TrialSpec:
    return TrialSpec(
        model=ladder.model(size, vocab_size=4096, context=128),
        sparsity=SparsitySpec(**sparsity),
        data=DataSpec(unique_tokens=2**26),
        optimizer=OptimizerSpec(batch_sequences=8),
    )


def time_with_and_without(folder: Path, size: str, rounds: int, every_seconds: float) -> dict[str, Any]:
    """A stretch is long enough for the pause between two checkpoints, which follows from what one
    costs; its clock starts with it.
    """
    spec = trial(size, **TIMED[size])
    state, batches = TrainState(spec, Placement()), RandomBatches(spec)
    hook = Counted(Folder(folder), every_seconds)
    hook.start(state)
    taken = train_step(state, batches)  # type: ignore[arg-type]
    while hook.begun_so_far < WARM_UP:  # the first makes the memory of the copies, all tell what one costs
        taken = train_step(state, batches)  # type: ignore[arg-type]
        hook.after_step(state, taken)
    hook.finish(state)
    step_seconds = taken.seconds
    pause = max(every_seconds, hook.behind.cost / checkpoint.SHARE)
    steps = math.ceil(max(LEAST_SECONDS, 1.2 * pause) / step_seconds)

    cpu: dict[bool, list[float]] = {True: [], False: []}  # seconds of the whole process, by whether with them

    def stretch(hook: Checkpoint | None) -> None:
        began = time.process_time()
        if hook is not None:
            hook.start(state)
        for _ in range(steps):
            taken = train_step(state, batches)  # type: ignore[arg-type]
            if hook is not None:
                hook.after_step(state, taken)
        if hook is not None:
            hook.finish(state)
        cpu[hook is not None].append(time.process_time() - began)

    with_them, without, ratio = record.alternate(lambda: stretch(hook), lambda: stretch(None), rounds=rounds)
    size_on_disk = sum(file.stat().st_size for file in folder.rglob("*.pt"))
    return {
        "what": "checkpoints", "model": size, "density": spec.sparsity.density, "every seconds": every_seconds,
        "pause s": pause, "bytes": size_on_disk, "steps a stretch": steps,
        "checkpoints a stretch": (hook.begun_so_far - WARM_UP) / (rounds + 1),
        "with s": with_them, "without s": without, "with / without": ratio,
        "CPU with / without": statistics.median(a / b for a, b in list(zip(cpu[True], cpu[False], strict=True))[1:]),
    }  # fmt: skip


def bytes_on_disk(folder: Path, size: str, density: float) -> dict[str, Any]:
    """Of a trial's checkpoint, by what it keeps once it has ended."""
    method = "dense" if density == 1.0 else "smet"
    model = ladder.model(size, vocab_size=257, context=128)
    found: dict[str, Any] = {"what": "on disk", "model": size, "density": density}
    for keep in KEPT:
        spec = TrialSpec(
            model=model,
            sparsity=SparsitySpec(method=method, density=density),  # type: ignore[arg-type]
            data=DataSpec(unique_tokens=2**16),
            optimizer=OptimizerSpec(batch_sequences=4),
        )
        checkpoint.retire(Folder(folder / keep), TrainState(spec, Placement(keep=keep)))
        found[f"{keep}, bytes"] = sum(file.stat().st_size for file in (folder / keep).rglob("*.pt"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="pairs of stretches (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [time_with_and_without(Path(folder, size), size, args.rounds, 1.0) for size in TIMED]
        disk = [
            bytes_on_disk(Path(folder, f"{size}-{density}"), size, density)
            for size in ("laptop-xs", "laptop-s", "laptop-m")
            for density in (1.0, 0.25)
        ]
    record.show("Checkpoints behind training", rows)
    record.show("Checkpoints of ended trials", disk)
    print(record.save("checkpoints-cpu", [*rows, *disk]))


if __name__ == "__main__":
    main()
