"""The command line: `python -m analysis fit | compare | optimum | design | report | simulate`.

Each verb reads a table, calls one function of the package and prints it, as text or with --json as
JSON. What the user can get wrong comes back as one line, `error: ...`, and exit status 2. No
analysis happens here.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis import verbs
from analysis.answer.design import AIMS
from analysis.data.cells import parse
from analysis.data.columns import COUNTS, parse_mapping
from analysis.data.source import FORMS
from analysis.data.units import parse_units
from analysis.laws import LAWS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of few letters shows ? for the others
    try:
        print(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Scaling laws from a table of runs.")
    verb = parser.add_subparsers(required=True, metavar="VERB")

    fit = _verb(verb, "fit", verbs.fit_table, "fit a law; parameters with intervals, minima and flags")
    _law(fit)
    fit.add_argument("--staged", action="store_true", help="the published four stages, beside the joint fit")
    fit.add_argument("--deltas", action="store_true", help="the answer under other Huber thresholds")
    fit.add_argument("--profile", action="store_true", help="add profile intervals")
    fit.add_argument(
        "--fix", type=_pairs, action=_Merged, default={}, metavar="NAME=VALUE,...", help="hold stored parameters fixed"
    )

    compare = _verb(verb, "compare", verbs.compare_table, "hold out by compute, epochs, sparsity and size")
    compare.add_argument("--laws", type=_names, default=None, metavar="NAME,...", help="default: the whole ladder")

    optimum = _verb(verb, "optimum", verbs.optimum_table, "what to train under a budget")
    _law(optimum)
    _question(optimum)

    design = _verb(verb, "design", verbs.design_table, "the next trials that pin the answer down, per FLOP")
    _law(design)
    _question(design)
    design.add_argument("--aim", default="optimum", choices=[aim for aim in AIMS if aim != "region"])
    design.add_argument("--target", type=Path, default=None, metavar="FILE", help="pin down the losses of these points")
    design.add_argument("--trials", type=int, default=8, help="how many")
    design.add_argument("--limit", type=_positive, default=None, help="their total cost")
    design.add_argument("--most", type=_positive, default=None, help="the largest cost of one trial")
    design.add_argument("--candidates", type=Path, default=None, help="a table of candidates; default: a box")

    report = _verb(verb, "report", verbs.report_table, "summary, HTML page and pictures")
    _law(report)
    report.add_argument("--output", type=Path, default=Path("report"), help="folder")
    report.add_argument("--svg", action="store_true", help="every picture as SVG too")
    report.add_argument("--title", default="Scaling report")
    report.add_argument("--budgets", type=_numbers, default=None, metavar="C,...", help="active FLOPs")

    _simulate(verb)
    return parser


def _simulate(verb: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    simulate = verb.add_parser("simulate", help="draw a table from a law; with --budget, the power of the plan")
    simulate.set_defaults(run=verbs.simulate_table)
    _law(simulate, "sparse_published")
    simulate.add_argument(
        "--parameters",
        type=_pairs,
        default=None,
        metavar="NAME=VALUE,...",
        help="stored names; default: the published ones",
    )
    for name, what in (("sizes", "N at density 1"), ("densities", "d"), ("unique", "U"), ("epochs", "passes")):
        simulate.add_argument(f"--{name}", type=_numbers, required=True, metavar="X,...", help=what)
    simulate.add_argument("--noise", type=float, default=0.008, help="sd of log loss")
    simulate.add_argument("--replicates", type=_whole(1), default=1)
    simulate.add_argument("--tables", type=int, default=20, help="simulated sweeps for the power")
    simulate.add_argument("--budget", type=_positive, default=None, help="active FLOPs of the optimum asked for")
    simulate.add_argument("--output", type=Path, default=None, help="write one drawn table here (.csv or .parquet)")
    simulate.add_argument("--seed", type=_whole(0), default=0)
    simulate.add_argument("--json", action="store_true")


def _verb(
    verb: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: verbs.Verb, help_text: str
) -> argparse.ArgumentParser:
    parser = verb.add_parser(name, help=help_text, description=help_text)
    parser.set_defaults(run=run)
    parser.add_argument("table", help=f"one row per run: {FORMS}")
    for name, kind, form, what in (
        ("columns", _mapping, "ROLE=COLUMN,...", "for other tables"),
        ("units", _units, "ROLE=UNIT,...", "active=M,tokens=B,loss=bits"),
        ("where", _where, "COLUMN=VALUE", "only the rows with it; may be repeated"),
    ):
        parser.add_argument(f"--{name}", type=kind, action=_Merged, default={}, metavar=form, help=what)
    parser.add_argument("--count", default="active_non_embedding", choices=list(COUNTS), help="which count is N")
    parser.add_argument("--method", default=None, help="sparse method to keep beside the dense rows")
    parser.add_argument(
        "--settings", type=_names, action="extend", default=[], metavar="COLUMN,...", help="columns that are settings"
    )
    parser.add_argument("--delta", type=_positive, default=1e-2, help="Huber threshold of log loss (published: 1e-3)")
    parser.add_argument("--bootstraps", type=_whole(2), default=200)
    parser.add_argument("--seed", type=_whole(0), default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _law(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    parser.add_argument("--law", default=default, metavar="NAME", help=f"auto, or one of {', '.join(LAWS)}")


def _question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", type=_positive, required=True, help="in the unit of --cost")
    parser.add_argument("--unique", type=_unique, default="any", metavar="U", help="unique tokens, or any")
    parser.add_argument("--cost", default="active", choices=["active", "executed", "seconds"])
    for name in ("active", "density", "epochs", "tokens"):
        parser.add_argument(f"--{name}", type=_range, default=None, metavar="LOW:HIGH", help=f"bounds of {name}")


class _Merged(argparse.Action):
    """An argument of pairs that may be given several times, each name once."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        known = getattr(namespace, self.dest)
        twice = [name for name in values if name in known]
        if twice:
            parser.error(f"{option} gives {twice[0]} twice, {known[twice[0]]!r} and {values[twice[0]]!r}; give it once")
        setattr(namespace, self.dest, {**known, **values})


def _wrap(error: ValueError) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(str(error))


def _mapping(text: str) -> dict[str, str]:
    try:
        return parse_mapping(text)
    except ValueError as error:
        raise _wrap(error) from error


def _units(text: str) -> dict[str, str]:
    try:
        return parse_units(text)
    except ValueError as error:
        raise _wrap(error) from error


def _where(text: str) -> dict[str, str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form COLUMN=VALUE, for example dataset=c4")
    return {column: value}


def _number(text: str) -> float:
    """A number as people write it: 3e7, 30M, 30,000,000."""
    found = parse([text])
    if found.wrong or not np.isfinite(found.values[0]):
        raise argparse.ArgumentTypeError(f"{text!r} is no number; expected one such as 3e7 or 30M")
    return float(found.values[0])


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0; expected a positive number")
    return value


def _whole(least: int) -> Callable[[str], int]:
    """The type of a whole number that is not below `least`."""

    def read(text: str) -> int:
        value = _number(text)
        if value < least or value != int(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(value)

    return read


def _unique(text: str) -> float | None:
    return None if text == "any" else _positive(text)


def _numbers(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    return _positive(low), _positive(high if colon else low)


def _pairs(text: str) -> dict[str, float]:
    pairs = [part.partition("=") for part in text.split(",")]
    bare = [name for name, equals, _ in pairs if not equals]
    if bare:
        raise argparse.ArgumentTypeError(f"{bare[0]!r} is not of the form NAME=VALUE, for example ln_E=0.6")
    return {name.strip(): _number(value) for name, _, value in pairs}
