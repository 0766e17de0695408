"""Arguments that several commands take: the data, settings, where a plan runs, how weights are
stored.

An argument is a field of a record and is named like it; what may be said about it is what the
record accepts. `--set` reaches every field of a trial, so no field needs an argument of its own.
Precedence, from weak to strong: a default, a named argument, --set. What one command alone takes
stands with the command.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, get_args

from raysparse import spec
from raysparse.record import from_text, leaves, nearest
from raysparse.spec import DataSpec, Moments, OptimizerSpec, Precision, SparsitySpec, TrialSpec

if TYPE_CHECKING:
    from raysparse.sweep.planners.recipe import Recipe

STORAGE = "runs"

# Fields with an argument of their own: the axes of every sweep, names, what a trial goes on from.
AXES = {
    "sparsity.density": "--densities", "data.unique_tokens": "--unique-tokens", "data.epochs": "--epochs",
    "seed": "--seeds", "data.corpus": "--corpus", "data.tokenizer": "--tokenizer", "model.vocab_size": "--tokenizer",
    "model.name": "--sizes", "name": "--name", "parent": "--from",
}  # fmt: skip


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
    group.add_argument("--workers", type=int, default=1, help="processes that train one trial together (%(default)s)")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What a sweep holds fixed beside the engine, and --set."""
    group = parser.add_argument_group("data and settings")
    group.add_argument("--method", default="smet", help="dense, static, set, rigl, smet, smet_grad (%(default)s)")
    group.add_argument("--corpus", default="python", help="a name, path, glob, or hf:NAME (%(default)s)")
    group.add_argument("--tokenizer", default="bytes", help="bytes, bpe:VOCABULARY, or hf:NAME (%(default)s)")
    group.add_argument("--validation-tokens", type=int, default=32_768, help="held out (%(default)s)")
    group.add_argument("--context", type=int, default=128, help="tokens a sequence (%(default)s)")
    group.add_argument("--batch-sequences", type=int, default=4, help="sequences a step (%(default)s)")
    group.add_argument("--evaluations", type=int, default=4, help="of a trial, equally spaced (%(default)s)")
    group.add_argument(
        "--update-every", type=int, default=20, help="steps between updates of the topology (%(default)s)"
    )
    add_set_argument(group)


def add_set_argument(group: Any) -> None:
    group.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE,...", dest="fields",
        help="any field of a trial (`raysparse fields` lists them), for example optimizer.weight_decay=1; "
        "several values make it an axis",
    )  # fmt: skip


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
        SparsitySpec(layout=args.layout, block=args.block, balanced=args.balanced, update_every=args.update_every),
        OptimizerSpec(moments=args.moments, batch_sequences=args.batch_sequences),
    )


def recipe_from(args: argparse.Namespace) -> Recipe:
    """What the sweep does not vary."""
    from raysparse.data.tokenizer import vocab_size
    from raysparse.sweep.planners.recipe import Recipe

    sparsity, optimizer = engine_from(args)
    return Recipe(
        vocab_size=vocab_size(args.tokenizer),
        context=args.context,
        method=args.method,
        data=DataSpec(corpus=args.corpus, tokenizer=args.tokenizer, validation_tokens=args.validation_tokens),
        sparsity=sparsity,
        optimizer=optimizer,
        precision=args.precision,
        evaluations=args.evaluations,
    )


def fields_from(args: argparse.Namespace) -> dict[str, list[Any]]:
    """What --set says: dotted field -> values.

    Raises ValueError for a field that does not exist (the nearest is named), that has an argument
    of its own as an axis, that is said twice, or whose value is of another type.
    """
    known = dict(leaves(TrialSpec))
    found: dict[str, list[Any]] = {}
    for text in args.fields:
        path, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"--set {text!r} is not of the form FIELD=VALUE, for example optimizer.weight_decay=1")
        if path not in known:
            raise ValueError(f"--set {path!r}: there is no such field{nearest(path, known)}; see `raysparse fields`")
        if path in AXES:
            raise ValueError(f"--set {path!r} is said by {AXES[path]}, an argument of its own")
        if path in found:
            raise ValueError(f"--set {path!r} is said twice; give its values once, with commas between")
        found[path] = [from_text(known[path], value.strip(), path) for value in values.split(",")]
    return found


def epochs_from(text: str) -> float:
    """What --epochs of one trial says, its sign aside. Raises ValueError for what is no number."""
    try:
        return float(text.removeprefix("+"))
    except ValueError as error:
        raise ValueError(f"--epochs is {text!r}, expected a number, or +N with --from MODEL") from error


def fixed_from(args: argparse.Namespace) -> dict[str, Any]:
    """What --set says, for a command that takes one value a field. Raises ValueError for more."""
    fields = fields_from(args)
    several = [path for path, values in fields.items() if len(values) > 1]
    if several:
        raise ValueError(f"--set {several[0]!r} has several values, and this command takes one")
    return {path: values[0] for path, values in fields.items()}
