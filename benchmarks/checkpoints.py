"""What checkpoints cost: time of training with one as often as `checkpoint.SHARE` allows against
none, and bytes on disk of trials that have ended.

Run it: `python -m benchmarks.checkpoints` (eight minutes on two cores). A stretch is the pause
between two checkpoints, which follows from what one costs; it begins with a checkpoint, or does
not, in turn, of the same training. Longer stretches told less: a virtual machine's speed drifts by
a tenth in a quarter of a minute. Training has one thread; the writing may take the other core.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from raysparse import ladder
from raysparse.files import Folder
from raysparse.placement import Keep, Placement
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import checkpoint
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState
from raysparse.train.step import train_step

WARM_UP = 4  # checkpoints, and steps beside each
KEPT: tuple[Keep, ...] = ("state", "weights", "nothing")
TIMED: dict[str, dict[str, Any]] = {  # size: sparsity
    "laptop-l": {"method": "dense", "density": 1.0},
    "dc-20m": {"method": "smet", "density": 0.25},
}


def trial(size: str, **sparsity: Any) -> TrialSpec:
    return TrialSpec(
        model=ladder.model(size, vocab_size=4096, context=128),
        sparsity=SparsitySpec(**sparsity),
        data=DataSpec(unique_tokens=2**26),
        optimizer=OptimizerSpec(batch_sequences=8),
    )


def time_with_and_without(folder: Path, size: str, rounds: int, every_seconds: float) -> dict[str, Any]:
    spec = trial(size, **TIMED[size])
    state, batches = TrainState(spec, Placement()), RandomBatches(spec)
    behind = checkpoint.Behind(Folder(folder))

    def steps(count: int) -> float:
        for _ in range(count):
            taken = train_step(state, batches)  # type: ignore[arg-type]
            behind.after_step(taken.seconds)
        return taken.seconds

    steps(WARM_UP)
    for _ in range(WARM_UP):  # the first makes the memory of the copies, all tell what one costs
        behind.begin(state)
        step_seconds = steps(WARM_UP)
        behind.wait()
    pause = max(every_seconds, behind.cost / checkpoint.SHARE)
    count = math.ceil(pause / step_seconds)

    def with_one() -> None:
        behind.begin(state)
        steps(count)
        behind.wait()

    with_them, without, ratio = record.alternate(with_one, lambda: steps(count), rounds=rounds)
    return {
        "what": "checkpoints", "model": size, "density": spec.sparsity.density, "every seconds": every_seconds,
        "pause s": pause, "bytes": sum(file.stat().st_size for file in folder.rglob("*.pt")),
        "steps a stretch": count, "pairs": rounds, "a checkpoint's own cost s": behind.cost,
        "with s": with_them, "without s": without, "with / without": ratio,
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
    parser.add_argument("--rounds", type=int, default=25, help="pairs of stretches (default: %(default)s)")
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
