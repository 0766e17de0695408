"""How big, how sparse, for how many epochs? A grid of small models on two cores, and the answer
that their losses give.

Run it: `python sweeps/grid.py` (or `make sweep`). It trains every combination of size, density,
unique tokens and epochs below, fits the scaling law, and writes what to train next into the run
folder's report/. Run it again after anything went wrong: it continues. `--plan` says what it will
cost first. The defaults were chosen so that repeating the data visibly stops paying off within a
few minutes of training; they are no study of anything larger.
"""

from __future__ import annotations

import argparse
import sys

from raysparse.console import arguments, script
from raysparse.console.training import train_recommended
from raysparse.sweep.planners.grid import grid

SIZES = ["laptop-xs", "laptop-s", "laptop-m"]
DENSITIES = [1.0, 0.5, 0.25]
UNIQUE_TOKENS = [50_000, 150_000]
EPOCHS = [1, 3, 9]  # laptop-m is at its best after 4 to 8 passes over either, and worse after more


def make_parser() -> argparse.ArgumentParser:
    parser = script.parser(__doc__ or "", name="grid")
    question = parser.add_argument_group("the question")
    question.add_argument(
        "--sizes", nargs="+", default=SIZES, help="names of raysparse/ladder.py (default: %(default)s)"
    )
    question.add_argument(
        "--densities", nargs="+", type=float, default=DENSITIES, help="share of weights kept (%(default)s)"
    )
    question.add_argument("--unique-tokens", nargs="+", type=int, default=UNIQUE_TOKENS, help="(%(default)s)")
    question.add_argument("--epochs", nargs="+", type=float, default=EPOCHS, help="passes over them (%(default)s)")
    question.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--no-training", action="store_true", help="do not train what is recommended at the end")
    return parser


@script.guarded
def main() -> int:
    args = make_parser().parse_args()
    specs = grid(
        arguments.recipe_from(args),
        sizes=args.sizes,
        densities=args.densities,
        unique_tokens=args.unique_tokens,
        epochs=args.epochs,
        seeds=args.seeds,
        settings=arguments.fields_from(args),
    )
    summary = script.run(script.plan_of(args, specs), args)
    if summary is None:
        return 0
    script.report(args, title=f"Grid sweep {args.name!r}", again=summary.ran > 0)
    if summary.unfinished or args.no_training:
        return 1 if summary.unfinished else 0
    return train_recommended(args, summary.folder, both=True)


if __name__ == "__main__":
    sys.exit(main())
