"""Arguments that several commands take: where a plan runs, and how weights are stored.

An argument is a field of a record and is named like it; what may be said about it is what the
record accepts. Left out: what one command alone takes, which stands with the command.
"""

from __future__ import annotations

import argparse
from typing import get_args

from raysparse import spec
from raysparse.spec import Moments, OptimizerSpec, Precision, SparsitySpec

STORAGE = "runs"


def add_run_arguments(parser: argparse.ArgumentParser, *, name: str) -> None:
    """What every command that runs a plan takes."""
    group = parser.add_argument_group("where and how it runs")
    group.add_argument("--name", default=name, help="run folder, under the storage (default: %(default)s)")
    group.add_argument(
        "--storage", default=STORAGE, help="a folder or a URI (s3://, gs://) that all machines reach (%(default)s)"
    )
    group.add_argument(
        "--executor", choices=("ray", "inline"), default="ray", help="inline: one after another, without Ray"
    )
    group.add_argument(
        "--address",
        default="",
        help="Ray cluster to join; RAY_ADDRESS is used when it is set (default: start one here)",
    )
    group.add_argument("--slots", type=int, default=0, help="trials at once (default: as many as fit)")
    group.add_argument(
        "--gpus", type=float, default=0.0, help="GPUs of each worker, 0.25 for small models (default: CPUs)"
    )


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, precision: Precision = "fp32", moments: Moments = "fp32"
) -> None:
    """How weights are stored and multiplied."""
    group = parser.add_argument_group("how weights are stored")
    for flag, choices, default in (
        ("--precision", spec.Precision, precision),
        ("--moments", spec.Moments, moments),
        ("--layout", spec.LayoutKind, "element"),
    ):
        group.add_argument(flag, choices=get_args(choices), default=default, help="(%(default)s)")
    group.add_argument(
        "--block", type=int, default=1, help="weights along a block: of a run, or of a tile's side (%(default)s)"
    )
    group.add_argument("--balanced", action="store_true", help="tiles: as many active in every row of tiles")
    group.add_argument(
        "--resident", action="store_true", help="keep the dense weights that products need, not one at a time"
    )


def engine_from(args: argparse.Namespace) -> tuple[SparsitySpec, OptimizerSpec]:
    """Layout and moments; precision and residency are fields of a trial and of its placement."""
    return (
        SparsitySpec(layout=args.layout, block=args.block, balanced=args.balanced),
        OptimizerSpec(moments=args.moments, batch_sequences=args.batch_sequences),
    )
