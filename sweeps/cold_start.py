"""Does the loss spike after a topology update, and what removes the spike? Plain Adam (set) against SMET, update by update.

Run it: `python sweeps/cold_start.py` (two trials at once would only make it noisier, so it runs one after another, in about ten
minutes). After every step around an update it evaluates a fixed set of sequences, and reports the change against the mean of the
five steps before the update, averaged over the updates of the second half of the warm phase and over seeds. The static mask shows
what training alone does in the same time. Writes docs/cold-start.png and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from raysparse import cli, ladder
from raysparse.data.order import Batches
from raysparse.data.store import TokenStore, prepare
from raysparse.data.tokenizer import vocab_size
from raysparse.files import Folder
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import trial
from raysparse.train.hooks import Hook
from raysparse.train.state import TrainState
from raysparse.train.step import StepRecord

UPDATE_EVERY = 100
BEFORE, AFTER = 5, 40  # steps looked at on either side of an update
FIRST_UPDATE = 800  # plain Adam's bias corrections must be close to 1 by then for its first steps to be too large
SEEDS = [0, 1, 2]
CASES = {
    "static": SparsitySpec(method="static", density=0.25),
    "set (plain Adam)": SparsitySpec(method="set", density=0.25),
    "smet without warm-up": SparsitySpec(method="smet", density=0.25, regrowth_warmup=0),
    "smet": SparsitySpec(method="smet", density=0.25),
}


class Probe(Hook):
    """The loss of fixed sequences after every step around an update; `self.losses[step]`, nats per token."""

    def __init__(self, batches: Batches):
        self.rows = torch.from_numpy(batches.validation(0, 48))
        self.losses: dict[int, float] = {}

    def after_step(self, state: TrainState, record: StepRecord) -> None:
        phase = record.step % UPDATE_EVERY
        if record.step > FIRST_UPDATE - BEFORE - 1 and (phase <= AFTER or phase >= UPDATE_EVERY - BEFORE):
            with torch.no_grad():
                self.losses[record.step] = state.model(self.rows).item() / self.rows[:, 1:].numel()


def spikes(losses: dict[int, float], steps: int) -> np.ndarray:
    """Change of the loss 0..AFTER steps after each update (0 is right after it), shape (updates, AFTER + 1)."""
    updates = range(FIRST_UPDATE, steps - AFTER, UPDATE_EVERY)
    level = {u: mean(losses[u - k] for k in range(1, BEFORE + 1)) for u in updates}
    return np.array([[losses[u + k] - level[u] for k in range(AFTER + 1)] for u in updates])


def measure(sparsity: SparsitySpec, seed: int, store: TokenStore) -> np.ndarray:
    spec = TrialSpec(
        model=ladder.model("laptop-s", vocab_size=vocab_size("bytes"), context=128),
        sparsity=sparsity.replace(update_every=UPDATE_EVERY, lr_scaling="none"),
        data=DataSpec(unique_tokens=262_145, epochs=4, validation_tokens=32_768),
        optimizer=OptimizerSpec(lr=ladder.dense_lr("laptop-s"), batch_sequences=4),
        seed=seed,
        evaluations=1,
    )
    probe = Probe(Batches(store, spec))
    with tempfile.TemporaryDirectory() as folder:
        trial.run(spec, store, Folder(folder), hooks=[probe])
    return spikes(probe.losses, spec.steps)


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


@cli.guarded
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/cold-start.png"), help="the picture (default: %(default)s)")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        store = prepare(Folder(folder), "python", "bytes", train_tokens=262_145, validation_tokens=32_768)
        curves = {}
        print("| method | after the update | 1 step | 3 steps | 10 steps | 40 steps | highest |\n|---|---|---|---|---|---|---|")
        for name, sparsity in CASES.items():
            curves[name] = np.concatenate([measure(sparsity, seed, store) for seed in SEEDS])
            center = curves[name].mean(axis=0)
            cells = [f"{center[k]:+.4f}" for k in (0, 1, 3, 10, 40)] + [f"{center.max():+.4f} at {center.argmax()}"]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    draw(curves, out)
    print(f"picture: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
