"""The best size, density, epochs, rate and weight decay for your tokens, under a budget.

Run it: `python sweeps/search.py --max-flops 2e13` searches the space below one trial at a time (or
as many as there are slots), each chosen with all rows so far in mind, and trains what it found.
`--axis name=LOW..HIGH` or `name=A,B` changes the space, `--sampler` who chooses. Run it again with
a larger budget and it goes on.
"""

from __future__ import annotations

import argparse
import sys

from raysparse.console import arguments, script
from raysparse.console.training import train_recommended
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.samplers import NAMES
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Space

AXES = {
    "size": "laptop-xs,laptop-s,laptop-m", "density": "1,0.5,0.25", "epochs": "2..32",
    "lr": "0.5..2", "weight_decay": "0.1..10",
}  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    parser = script.parser(__doc__ or "", name="search")
    question = parser.add_argument_group("the question")
    question.add_argument("--unique-tokens", type=int, default=50_000)
    question.add_argument("--largest", type=float, default=None, help="cost of one trial at most, in the budget's unit")
    question.add_argument(
        "--axis", action="append", default=[], metavar="NAME=...", help="an axis of the space: LOW..HIGH or A,B,C "
        f"({'; '.join(f'{name}={values}' for name, values in AXES.items())})",
    )  # fmt: skip
    question.add_argument("--sampler", default="law", help=f"{', '.join(NAMES)} (%(default)s)")
    question.add_argument("--trials", type=int, default=None, help="at most (default: until the budget is spent)")
    question.add_argument("--seed", type=int, default=0, help="of the sampler (%(default)s)")
    parser.set_defaults(max_flops=2e13)
    return parser


def make_planner(args: argparse.Namespace, recipe: Recipe) -> Search:
    """The search that the arguments ask for. Raises ValueError for a space that is none."""
    axes = AXES | {text.partition("=")[0]: text.partition("=")[2] for text in args.axis}
    axes |= {path: str(value) for path, value in arguments.fixed_from(args).items()}
    space = Space.parse([f"{name}={values}" for name, values in axes.items()], recipe.vocab_size)
    return Search(
        recipe=recipe, space=space, unique_tokens=args.unique_tokens, sampler=args.sampler, largest=args.largest,
        trials=args.trials, seed=args.seed,
    )  # fmt: skip


@script.guarded
def main() -> int:
    args = make_parser().parse_args()
    planner = make_planner(args, arguments.recipe_from(args))
    summary = script.run(script.plan_of(args, planner=planner), args)
    if summary is None:
        return 0
    script.report(args, title=f"Search {args.name!r}")
    return 1 if summary.unfinished else train_recommended(args, summary.folder, both=True)


if __name__ == "__main__":
    sys.exit(main())
