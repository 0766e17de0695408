"""How big, how sparse, for how many epochs, with which settings? A grid of small models, a search
for the best settings, and the answer, trained. Two cores are enough.

Run it: `python sweeps/grid.py` (or `make sweep`). It trains every combination of size, density,
unique tokens and epochs below, spends the rest of the budget on a search over them and over the
settings of `--search`, fits the laws, writes what to train next into the run folder's report/, and
trains that, beside the best dense model. Run it again after anything went wrong: it continues.
`--plan` says what it will cost first. The defaults were chosen for a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from raysparse.console import arguments, script
from raysparse.console.training import train_recommended
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Axis, Space, field_of, is_searched
from raysparse.sweep.planners.tune import Tune

SIZES = ["laptop-xs", "laptop-s", "laptop-m"]
DENSITIES = [1.0, 0.25]
UNIQUE_TOKENS = [50_000]
EPOCHS = [3, 9]
SEARCHED = {"weight_decay": "0.5..6", "lr": "0.5..2"}  # lr: a factor on the size's own rate
DECAY = "optimizer.weight_decay"
START_DECAY = 2.0  # of the grid, where --set says nothing; near the best of 9 to 27 epochs (docs/settings.md)
LONGER = 2  # the search tries up to this many times the grid's most epochs
MAX_FLOPS = 5e12


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
    question.add_argument(
        "--search", nargs="*", default=list(SEARCHED), metavar="SETTING",
        help=f"then search these ({', '.join(f'{k}={v}' for k, v in SEARCHED.items())}, or name=LOW..HIGH) with what "
        f"is left of --max-flops; nothing: the grid alone (default: {' '.join(SEARCHED)})",
    )  # fmt: skip
    question.add_argument(
        "--tune", nargs="+", default=[], metavar="SETTING",
        help="instead of a search between the points: the best of these settings at every point of the grid",
    )  # fmt: skip
    parser.add_argument("--no-training", action="store_true", help="do not train what is recommended at the end")
    parser.set_defaults(max_flops=MAX_FLOPS)
    return parser


def make_search(args: argparse.Namespace, recipe: Recipe, fields: dict[str, list[Any]]) -> Search | None:
    """The search after the grid, over the most unique tokens, with the same `fields`; None for no
    search.
    """
    if not args.search:
        return None
    axes = {
        "size": ",".join(args.sizes),
        "density": ",".join(map(str, args.densities)),
        "epochs": f"{min(args.epochs):g}..{LONGER * max(args.epochs):g}",
    }
    searched = ranges_of(args.search)
    space = space_of(axes | searched, recipe)
    space = space.replace(axes=(*space.axes, *fixed_axes(fields, searched)))
    return Search(recipe=recipe, space=space, unique_tokens=max(args.unique_tokens), seed=min(args.seeds))


def fixed_axes(fields: dict[str, list[Any]], searched: Iterable[str]) -> list[Axis]:
    """What the grid fixes and the search must not leave open, as axes of one choice.

    Raises ValueError for what a search cannot hold fixed, and for several values of one field.
    """
    free, found = {field_of(name) for name in searched}, []
    for path, values in fields.items():
        if path in free:
            continue
        if not is_searched(path):
            raise ValueError(
                f"--set {path!r} does not reach the search, which would mix two configurations; say --search without "
                f"settings for the grid alone"
            )
        if len(values) > 1:
            said = ",".join(map(str, values))
            raise ValueError(
                f"--set {path!r} has the values {said}, of which the search takes one; search it too "
                f"(--search {path}={said}), or say --search without settings for the grid alone"
            )
        found.append(Axis(name=path, choices=tuple(values)))
    return found


def ranges_of(settings: list[str]) -> dict[str, str]:
    """name -> range, as it is said or as it is by default; commas may stand between names."""
    parts = [part for text in settings for part in (text.split(",") if "=" not in text else [text])]
    found = {}
    for part in parts:
        name, _, values = part.partition("=")
        field_of(name)  # refuses what is no setting, with the nearest that is
        if not values and name not in SEARCHED:
            raise ValueError(f"{name} has no range of its own here; say {name}=LOW..HIGH or {name}=A,B,C")
        found[name] = values or SEARCHED[name]
    return found


def space_of(axes: dict[str, str], recipe: Recipe) -> Space:
    return Space.parse([f"{name}={values}" for name, values in axes.items()], recipe.vocab_size)


def make_plan(args: argparse.Namespace) -> Plan:
    recipe, fields = arguments.recipe_from(args), arguments.fields_from(args)
    if args.search:
        fields = {DECAY: [START_DECAY]} | fields
    specs = grid(
        recipe,
        sizes=args.sizes,
        densities=args.densities,
        unique_tokens=args.unique_tokens,
        epochs=args.epochs,
        seeds=args.seeds,
        settings=fields,
    )
    if args.tune:
        tune = Tune(points=specs, space=space_of(ranges_of(args.tune), recipe), seed=min(args.seeds))
        return script.plan_of(args, planner=tune)
    return script.plan_of(args, specs, make_search(args, recipe, fields))


@script.guarded
def main() -> int:
    args = make_parser().parse_args()
    summary = script.run(make_plan(args), args)
    if summary is None:
        return 0
    script.report(args, title=f"Grid sweep {args.name!r}")
    if summary.unfinished or args.no_training:
        return 1 if summary.unfinished else 0
    return train_recommended(args, summary.folder, both=True)


if __name__ == "__main__":
    sys.exit(main())
