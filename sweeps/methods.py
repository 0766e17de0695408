"""Does changing the topology help, and is it SMET or its learning rate? Six methods, two densities,
three seeds, both scalings.

Run it: `python sweeps/methods.py`. Nobody has published a static mask with the scaled learning
rate, without which the gain of SMET cannot be told from the gain of a larger rate; so here every
method runs with equal scaling, and again with none. Prints a Markdown table of validation losses
(mean and standard deviation over seeds) for docs/smet-study.md.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from statistics import mean, stdev

from raysparse.console import script
from raysparse.data.tokenizer import vocab_size
from raysparse.results import Results
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe

METHODS = ["static", "set", "rigl", "smet", "smet_grad"]
DENSITIES = [0.25, 0.1]
SEEDS = [0, 1, 2]
SCALINGS = ["rsqrt", "none"]


def specs() -> tuple[TrialSpec, ...]:
    """Dense once per seed; every sparse method at every density with every scaling."""
    found: list[TrialSpec] = []
    for method, scaling in [("dense", "none"), *itertools.product(METHODS, SCALINGS)]:
        recipe = Recipe(
            vocab_size=vocab_size("bytes"),
            method=method,
            context=128,
            evaluations=4,
            data=DataSpec(validation_tokens=32_768),
            sparsity=SparsitySpec(update_every=50, lr_scaling=scaling),
            optimizer=OptimizerSpec(batch_sequences=4),
        )
        found += grid(
            recipe,
            sizes=["laptop-s"],
            densities=[1.0] if method == "dense" else DENSITIES,
            unique_tokens=[131_072],
            epochs=[4],
            seeds=SEEDS,
        )
    return tuple(found)


def table(results: Results) -> str:
    """Rows of methods, columns of scaling and density: mean and standard deviation of the
    validation loss over seeds.
    """
    losses: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for row in results.rows():
        losses[row["method"], row["lr_scaling"], row["density"]].append(row["validation_loss"])
    columns = list(itertools.product(SCALINGS, DENSITIES))
    lines = [
        "| method | " + " | ".join(f"{scaling}, d = {d:g}" for scaling, d in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for method in METHODS:
        cells = [losses[method, scaling, d] for scaling, d in columns]
        lines.append(f"| {method} | " + " | ".join(f"{mean(c):.3f} ± {stdev(c):.3f}" for c in cells) + " |")
    dense = losses["dense", "none", 1.0]
    return "\n".join([*lines, "", f"dense: {mean(dense):.3f} ± {stdev(dense):.3f}"])


@script.guarded
def main() -> int:
    args = script.study_parser(__doc__ or "", name="methods").parse_args()
    summary = script.run(script.plan_of(args, specs()), args)
    if summary is None:
        return 0
    if summary.unfinished:
        return 1
    print(table(Results(summary.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
