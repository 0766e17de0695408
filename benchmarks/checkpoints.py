"""What checkpoints cost: time of training with one every second against none, and bytes on disk of
trials that have ended.

Run it: `python -m benchmarks.checkpoints` (a few minutes). Stretches of the same training run in
turn, with and without checkpoints, so the ratio holds although the machine's speed drifts; waiting
for the last file is part of a stretch with them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.step import trial
from raysparse import ladder
from raysparse.files import Folder
from raysparse.placement import Keep, Placement
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import checkpoint
from raysparse.train.hooks import Checkpoint
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState
from raysparse.train.step import train_step

KEPT: tuple[Keep, ...] = ("state", "weights", "nothing")


def time_with_and_without(folder: Path, rounds: int, steps: int, every_seconds: float) -> dict[str, Any]:
    spec = trial("fp32", 512, method="smet", density=0.25)
    state, batches = TrainState(spec, Placement()), RandomBatches(spec)

    def stretch(hook: Checkpoint | None) -> None:
        for _ in range(steps):
            taken = train_step(state, batches)  # type: ignore[arg-type]
            if hook is not None:
                hook.after_step(state, taken)
        if hook is not None:
            hook.finish(state)

    hook = Checkpoint(Folder(folder), every_seconds)
    hook.start(state)
    with_them, without, ratio = record.alternate(lambda: stretch(hook), lambda: stretch(None), rounds=rounds)
    size = sum(file.stat().st_size for file in folder.rglob("*.pt"))
    return {
        "what": "checkpoints", "every seconds": every_seconds, "bytes": size, "steps a stretch": steps,
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
    parser.add_argument("--rounds", type=int, default=7, help="pairs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="of a stretch (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [time_with_and_without(Path(folder, "time"), args.rounds, args.steps, 1.0)]
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
