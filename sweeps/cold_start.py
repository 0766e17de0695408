"""Does the loss spike after a topology update, and what removes the spike? Plain Adam (set) against
SMET, update by update.

Run it: `python sweeps/cold_start.py`, and again with `--regime hard` (ten minutes each on a quiet
core, one trial after another). After every step around an update it evaluates fixed sequences, and
reports the change against the mean of the five steps before the update, averaged over updates and
seeds. The static mask shows what training alone does in the same time.

`gentle` is the paper's default schedule with an unscaled learning rate. `hard` is what the released
scripts do, a rate of 1/d at d = 0.1, with half of the weights replaced at every update and the rate
kept up: there the mechanism must show if it exists. Prints a Markdown table and writes a picture
for docs/smet-study.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from raysparse import ladder
from raysparse.console import script
from raysparse.data.order import Batches
from raysparse.data.store import TokenStore, prepare
from raysparse.data.tokenizer import vocab_size
from raysparse.files import Folder
from raysparse.spec import DataSpec, LearningRateScaling, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import trial
from raysparse.train.hooks import Hook
from raysparse.train.state import TrainState
from raysparse.train.step import StepRecord

UPDATE_EVERY = 100
BEFORE, AFTER = 5, 40  # steps looked at on either side of an update
FIRST_UPDATE = 800  # plain Adam's bias corrections must be close to 1 by then for its first steps to be too large
SEEDS = [0, 1, 2]
CASES: dict[str, dict[str, Any]] = {
    "static": {"method": "static"},
    "set (plain Adam)": {"method": "set"},
    "smet without warm-up": {"method": "smet", "regrowth_warmup": 0},
    "smet": {"method": "smet"},
}


@dataclass(frozen=True)
class Regime:
    """How roughly the topology is treated; `epochs` over 262 kB are 512 steps each."""

    density: float
    lr_scaling: LearningRateScaling
    update_ratio: float
    update_ratio_final: float
    final_lr_fraction: float
    epochs: float


REGIMES = {
    "gentle": Regime(0.25, "none", 0.2, 0.005, 0.1, 4.0),
    "hard": Regime(0.1, "inverse", 0.5, 0.5, 1.0, 2.5),
}


class Probe(Hook):
    """The loss of fixed sequences after every step around an update; `self.losses[step]`, nats per
    token.
    """

    def __init__(self, batches: Batches):
        self.rows = torch.from_numpy(batches.validation(0, 48))
        self.losses: dict[int, float] = {}

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        phase = record.step % UPDATE_EVERY
        if record.step > FIRST_UPDATE - BEFORE - 1 and (phase <= AFTER or phase >= UPDATE_EVERY - BEFORE):
            with torch.no_grad():
                self.losses[record.step] = state.model(self.rows).item() / self.rows[:, 1:].numel()


def spikes(losses: dict[int, float], steps: int) -> np.ndarray:
    """Change of the loss 0..AFTER steps after each update (0 is right after it), shape (updates,
    AFTER + 1).
    """
    updates = range(FIRST_UPDATE, steps - AFTER, UPDATE_EVERY)
    level = {u: mean(losses[u - k] for k in range(1, BEFORE + 1)) for u in updates}
    return np.array([[losses[u + k] - level[u] for k in range(AFTER + 1)] for u in updates])


def measure(regime: Regime, case: dict[str, Any], seed: int, store: TokenStore) -> tuple[np.ndarray, float]:
    """(changes around the updates, final validation loss) of one trial."""
    spec = TrialSpec(
        model=ladder.model("laptop-s", vocab_size=vocab_size("bytes"), context=128),
        sparsity=SparsitySpec(
            density=regime.density,
            update_every=UPDATE_EVERY,
            lr_scaling=regime.lr_scaling,
            update_ratio=regime.update_ratio,
            update_ratio_final=regime.update_ratio_final,
            **case,
        ),
        data=DataSpec(unique_tokens=262_145, epochs=regime.epochs, validation_tokens=32_768),
        optimizer=OptimizerSpec(
            lr=ladder.DENSE_LR["laptop-s"], batch_sequences=4, final_lr_fraction=regime.final_lr_fraction
        ),
        seed=seed,
        evaluations=1,
    )
    probe = Probe(Batches(store, spec))
    with tempfile.TemporaryDirectory() as folder:
        outcome = trial.run(spec, store, Folder(folder), hooks=[probe])
    if outcome.validation_loss is None:
        raise RuntimeError(f"trial {spec.trial_id} ended {outcome.status}: {outcome.reason}")
    return spikes(probe.losses, spec.steps), outcome.validation_loss


def draw(curves: dict[str, np.ndarray], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (name, changes), color in zip(curves.items(), ["#999999", "#D55E00", "#56B4E9", "#0072B2"], strict=True):
        center, error = changes.mean(axis=0), changes.std(axis=0, ddof=1) / len(changes) ** 0.5
        axes.plot(center, color=color, label=name, lw=2)
        axes.fill_between(range(len(center)), center - 2 * error, center + 2 * error, color=color, alpha=0.2, lw=0)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xlabel="steps after a topology update", ylabel="change of the loss (nats per byte)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


@script.guarded
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regime", choices=REGIMES, default="gentle", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the picture (default: docs/images/cold-start-REGIME.png)")
    args = parser.parse_args()
    out = args.out or Path(f"docs/images/cold-start-{args.regime}.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(Folder(folder), "python", "bytes", train_tokens=262_145, validation_tokens=32_768)
        curves = {}
        print("| method | after the update | 1 step | 3 steps | 10 steps | 40 steps | highest | validation loss |")
        print("|---" * 8 + "|")
        for name, case in CASES.items():
            changes, losses = zip(*(measure(REGIMES[args.regime], case, seed, store) for seed in SEEDS), strict=True)
            curves[name] = np.concatenate(changes)
            center = curves[name].mean(axis=0)
            cells = [f"{center[k]:+.4f}" for k in (0, 1, 3, 10, 40)] + [f"{center.max():+.4f} at {center.argmax()}"]
            print(f"| {name} | " + " | ".join([*cells, f"{mean(losses):.3f} ± {stdev(losses):.3f}"]) + " |", flush=True)
    draw(curves, out)
    print(f"picture: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
