"""Arguments that several commands take: the data, settings, where a plan runs, how weights are
stored.

An argument is a field of a record and is named like it; what may be said about it is what the
record accepts. `--set` reaches every field of a trial, so no field needs an argument of its own.
Precedence, from weak to strong: a default, a named argument, --set. What one command alone takes
stands with the command.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any, get_args

from raysparse import spec
from raysparse.placement import Keep, Placement, Recompute
from raysparse.reading import VALIDATION_SHARE, NearDuplicates, ReadingSpec
from raysparse.record import from_text, leaves, nearest
from raysparse.spec import DataSpec, Moments, OptimizerSpec, Precision, SparsitySpec, TrialSpec
from raysparse.sweep.settings import Scheduler

if TYPE_CHECKING:
    from raysparse.sweep.planners.recipe import Recipe

STORAGE = "runs"

# Fields with an argument of their own: the axes of every sweep, names, what a trial goes on from.
AXES = {
    "sparsity.density": "--densities", "data.unique_tokens": "--unique-tokens", "data.epochs": "--epochs",
    "seed": "--seeds", "data.corpus": "--corpus", "data.tokenizer": "--tokenizer", "model.vocab_size": "--tokenizer",
    "model.name": "--sizes", "name": "--name", "parent": "--from",
}  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser, *, name: str = "") -> None:
    """What every command that runs a plan takes. Without a name of the command's own, PLAN says
    what is not said: how many workers, and as a run folder where it lies.
    """
    group = parser.add_argument_group("where and how it runs")
    usual_name, usual_storage = name or "PLAN's, or sweep", STORAGE if name else f"PLAN's, or {STORAGE}"
    group.add_argument("--name", default=name, help=f"run folder, under the storage (default: {usual_name})")
    group.add_argument(
        "--storage", default=STORAGE if name else "",
        help=f"a folder or a URI (s3://, gs://) that all machines reach ({usual_storage})",
    )  # fmt: skip
    group.add_argument(
        "--executor", choices=("ray", "inline"), default="ray", help="inline: one after another, without Ray"
    )
    group.add_argument(
        "--address",
        default="",
        help="Ray cluster to join; RAY_ADDRESS is used when it is set (default: start one here)",
    )
    group.add_argument(
        "--no-dashboard", dest="dashboard", action="store_false", help="start Ray without it, which is quicker"
    )
    group.add_argument("--slots", type=int, default=0, help="trials at once (default: as many as fit)")
    group.add_argument(
        "--gpus", type=float, default=0.0, help="GPUs of each worker, 0.25 for small models (default: CPUs)"
    )
    if name:  # these print a plan with its cost
        add_price_argument(group)
    group.add_argument(
        "--scheduler", choices=[name for name in get_args(Scheduler) if name], default="",
        help="of Ray Tune, that may stop trials at an evaluation; --halving compares only trials of one budget",
    )  # fmt: skip
    group.add_argument(
        "--workers", type=int, default=1 if name else None,
        help=f"processes that train one trial together ({1 if name else 'as PLAN says'})",
    )  # fmt: skip
    group.add_argument(
        "--min-workers", type=int, default=0, help="go on with so many where machines went away (default: wait)"
    )


def add_price_argument(parser: argparse._ActionsContainer) -> None:
    """What a plan's cost in money is made from."""
    parser.add_argument(
        "--price-per-hour", type=float, default=0.0, metavar="PRICE",
        help="of a GPU, or of the machine of a worker that trains on CPUs: a plan says what its trials cost",
    )  # fmt: skip


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """What a sweep holds fixed beside the engine, and --set."""
    group = parser.add_argument_group("data and settings")
    group.add_argument("--method", default="smet", help="dense, static, set, rigl, smet, smet_grad (%(default)s)")
    group.add_argument("--corpus", default="python", help="a name, path, glob, or hf:NAME (%(default)s)")
    group.add_argument("--tokenizer", default="bytes", help="bytes, bpe:VOCABULARY, or hf:NAME (%(default)s)")
    add_reading_arguments(group)
    group.add_argument("--validation-tokens", type=int, default=32_768, help="held out (%(default)s)")
    group.add_argument("--context", type=int, default=128, help="tokens a sequence (%(default)s)")
    group.add_argument("--batch-sequences", type=int, default=4, help="sequences a step (%(default)s)")
    group.add_argument("--evaluations", type=int, default=4, help="of a trial, equally spaced (%(default)s)")
    group.add_argument(
        "--update-every", type=int, default=20, help="steps between updates of the topology (%(default)s)"
    )
    add_set_argument(group)


def add_reading_arguments(group: Any) -> None:
    """How a corpus is read and what of it is held out (raysparse/reading.py)."""
    group.add_argument("--text-field", default="text", help="field with the text, dotted into records (%(default)s)")
    group.add_argument("--group-field", default="", help="documents of one value are never on both sides of the split")
    group.add_argument("--encoding", default="", help="of text, JSON and CSV (default: a byte order mark's, or UTF-8)")
    group.add_argument("--replace-bad-bytes", action="store_true", help="read what is not of the encoding as U+FFFD")
    group.add_argument("--separator-token", default="", help="special token that ends a document (its tokenizer's own)")
    group.add_argument("--validation", default="", metavar="PATH", help="hold out this, not a share of the corpus")
    group.add_argument(
        "--validation-share", type=float, default=VALIDATION_SHARE, help="of the characters, held out (%(default)s)"
    )
    group.add_argument(
        "--near-duplicates", choices=get_args(NearDuplicates), default="auto",
        help="keep them on one side; auto: of files to 16 Mi characters where datasketch is installed",
    )  # fmt: skip


def reading_from(args: argparse.Namespace) -> ReadingSpec:
    return ReadingSpec(**{f.name: getattr(args, f.name) for f in dataclasses.fields(ReadingSpec)})


def add_set_argument(group: Any) -> None:
    group.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE,...", dest="fields",
        help="any field of a trial (`raysparse fields` lists them), for example optimizer.weight_decay=1; "
        "several values make it an axis",
    )  # fmt: skip


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, precision: Precision | None = None, moments: Moments = "fp32"
) -> None:
    """How weights are stored and multiplied, and what is made again; without a precision of the
    command's own, the device decides it.
    """
    group = parser.add_argument_group("how weights are stored")
    by_device = "(fp32 on a CPU, bf16_master on a GPU)"
    for flag, choices, default in (
        ("--precision", spec.Precision, precision),
        ("--moments", spec.Moments, moments),
        ("--layout", spec.LayoutKind, "element"),
    ):
        said = "(%(default)s)" if default else by_device
        group.add_argument(flag, choices=get_args(choices), default=default, help=said)
    group.add_argument(
        "--block", type=int, default=1, help="weights along a block: of a run, or of a tile's side (%(default)s)"
    )
    group.add_argument("--balanced", action="store_true", help="tiles: as many active in every row of tiles")
    group.add_argument(
        "--resident", action="store_true", help="keep the dense weights that products need, not one at a time"
    )
    group.add_argument(
        "--recompute", choices=get_args(Recompute), default="auto",
        help="what a backward pass makes again instead of keeping it (auto: on a GPU, the least that fits)",
    )  # fmt: skip


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a trial trains, and in what portions; nothing here is part of a trial."""
    group = parser.add_argument_group("the device")
    group.add_argument("--device", default="", help="cpu, cuda or cuda:NUMBER (cuda with --gpus, else cpu)")
    group.add_argument(
        "--micro-batch", type=int, default=0, metavar="SEQUENCES",
        help="in a forward pass (as many as fit on a GPU; on a CPU a worker's whole share)",
    )  # fmt: skip
    group.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the layers, between their sparse products",
    )
    group.add_argument(
        "--checkpoint-seconds", type=float, default=30.0, help="between checkpoints of a trial (%(default)s)"
    )
    group.add_argument(
        "--keep", choices=get_args(Keep), default="weights",
        help="of a trial that has ended, in its checkpoint; state: with moments (%(default)s)",
    )  # fmt: skip


def placement_from(args: argparse.Namespace) -> Placement:
    """Where trials train. Raises ValueError when --device and --gpus contradict each other, or when
    a card is named that Ray would have to choose.
    """
    device = args.device or ("cuda" if args.gpus else "cpu")
    if args.gpus and device == "cpu":
        raise ValueError(f"--device is 'cpu' but --gpus is {args.gpus:g}; leave one of them out")
    if args.executor == "ray" and ":" in device:
        raise ValueError(f"--device is {device!r}, but Ray gives every worker a card; say --device cuda")
    return Placement(
        workers=args.workers, device=device, micro_batch=args.micro_batch, compile=args.compile,
        checkpoint_seconds=args.checkpoint_seconds, resident=args.resident, recompute=args.recompute,
        device_share=args.gpus or 1.0, keep=args.keep,
    )  # fmt: skip


def precision_from(args: argparse.Namespace) -> Precision:
    """What was said, or what the device is fast at."""
    is_gpu = bool(args.gpus) or args.device.startswith("cuda")
    precision: Precision = args.precision or ("bf16_master" if is_gpu else "fp32")
    return precision


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
        vocab_size=vocab_size(args.tokenizer, args.separator_token),
        context=args.context,
        method=args.method,
        data=DataSpec(
            corpus=args.corpus,
            tokenizer=args.tokenizer,
            validation_tokens=args.validation_tokens,
            reading=reading_from(args),
        ),
        sparsity=sparsity,
        optimizer=optimizer,
        precision=precision_from(args),
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


def said(text: str) -> str:
    """A word that is there: an empty variable of a script must not train something else."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, expected a value; leave the argument out")
    return text


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
