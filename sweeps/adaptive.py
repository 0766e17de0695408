"""Which trials next? Run a small grid, fit, let the analysis design the next trials, and again.

Run it: `python sweeps/adaptive.py --max-flops 2e13` starts with a coarse grid, then adds the trials
that narrow the answer at `--compute` active FLOPs and `--unique-tokens` most per FLOP, until it is
narrow enough or the budget is spent. Run it again and it continues where it was.
"""

from __future__ import annotations

import argparse
import sys

from raysparse.console import arguments, script
from raysparse.sweep.planners.adaptive import Adaptive
from raysparse.sweep.planners.grid import grid


def make_parser() -> argparse.ArgumentParser:
    parser = script.parser(__doc__ or "", name="adaptive")
    question = parser.add_argument_group("the question")
    question.add_argument(
        "--compute", type=float, default=1e12, help="active FLOPs of the run asked about (%(default)g)"
    )
    question.add_argument("--unique-tokens", type=int, default=50_000, help="of the run asked about (%(default)s)")
    question.add_argument("--batch", type=int, default=4, help="trials designed at a time (%(default)s)")
    question.add_argument("--narrow", type=float, default=0.1, help="sd of ln density that is enough (%(default)g)")
    start = parser.add_argument_group("the grid to start with")
    start.add_argument("--sizes", nargs="+", default=["laptop-xs", "laptop-s", "laptop-m"])
    start.add_argument("--densities", nargs="+", type=float, default=[1.0, 0.5, 0.25])
    start.add_argument("--epochs", nargs="+", type=float, default=[1, 3, 9])
    return parser


@script.guarded
def main() -> int:
    args = make_parser().parse_args()
    recipe = arguments.recipe_from(args)
    start = grid(
        recipe,
        sizes=args.sizes,
        densities=args.densities,
        unique_tokens=[args.unique_tokens],
        epochs=args.epochs,
        settings={path: [value] for path, value in arguments.fixed_from(args).items()},
    )
    planner = Adaptive(
        recipe=recipe,
        start=start,
        compute=args.compute,
        unique_tokens=args.unique_tokens,
        batch=args.batch,
        narrow=args.narrow,
        settings=tuple(arguments.fixed_from(args).items()),
    )
    summary = script.run(script.plan_of(args, planner=planner), args)
    if summary is None:
        return 0
    script.report(args, title=f"Adaptive sweep {args.name!r}")
    return 1 if summary.unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
