"""At equal compute, which size and which density? IsoFLOP slices, exact within 1 %.

Run it: `python sweeps/isoflop.py` trains, for each budget, every size and density for as long as
the budget lasts, and fits the law to the results. `--budgets` takes FLOPs or a preset's name;
`--plan` shows tokens, epochs, both FLOPs, memory and time of every trial and runs nothing.
"""

from __future__ import annotations

import argparse
import sys

from raysparse.console import arguments, script
from raysparse.record import nearest
from raysparse.sweep.planners.isoflop import PRESETS, isoflop


def make_parser() -> argparse.ArgumentParser:
    parser = script.parser(__doc__ or "", name="isoflop")
    question = parser.add_argument_group("the question")
    question.add_argument(
        "--budgets", nargs="+", default=["laptop"], help=f"FLOPs of one trial, or one of {', '.join(PRESETS)}"
    )
    question.add_argument("--unit", choices=("flops_active", "flops_executed"), default="flops_active")
    question.add_argument("--sizes", nargs="+", default=["laptop-xs", "laptop-s", "laptop-m"])
    question.add_argument("--densities", nargs="+", type=float, default=[1.0, 0.5, 0.25])
    question.add_argument("--unique-tokens", nargs="+", type=int, default=[50_000])
    question.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser


def budgets_of(values: list[str]) -> tuple[float, ...]:
    """FLOPs from numbers and names of presets. Raises ValueError for what is neither."""
    found: list[float] = []
    for value in values:
        try:
            found += PRESETS[value] if value in PRESETS else (float(value),)
        except ValueError as error:
            raise ValueError(f"--budgets {value!r} is no number and no preset{nearest(value, PRESETS)}") from error
    return tuple(found)


@script.guarded
def main() -> int:
    args = make_parser().parse_args()
    fixed = arguments.fixed_from(args)
    specs, dropped = isoflop(
        arguments.recipe_from(args),
        budgets=budgets_of(args.budgets),
        sizes=args.sizes,
        densities=args.densities,
        unique_tokens=args.unique_tokens,
        seeds=args.seeds,
        unit=args.unit,
        settings=fixed,
        device=arguments.placement_from(args).device,
    )
    for line in dropped:
        print(f"left out: {line}")
    summary = script.run(script.plan_of(args, specs), args)
    if summary is None:
        return 0
    script.report(args, title=f"IsoFLOP sweep {args.name!r}")
    return 1 if summary.unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
