"""The command line: verbs over plans and run folders. `raysparse --help`, or `python -m raysparse`.

A command is a few lines that read arguments, build records and call the library, so nothing can be
done here that cannot be done from Python. What a user can cause (ValueError, and what the system
says about files and connections) is printed as one line with exit status 2; anything else is our
bug and keeps its traceback. The sweep scripts in `sweeps/` share `run_plan` and `guarded`, and the
arguments of `raysparse.console.arguments`.

Left out: whatever is slow to import, until a verb needs it; questions (each is a script in
`sweeps/`).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from raysparse.console import arguments, release, script
from raysparse.console.arguments import STORAGE
from raysparse.record import nearest

if TYPE_CHECKING:
    from raysparse.sweep.plan import Plan


def command_plan(args: argparse.Namespace) -> int:
    script.show_plan(script.load_plan(args.plan), args)
    return 0


def command_sweep(args: argparse.Namespace) -> int:
    from raysparse.files import Folder

    plan, usual = script.load_plan(args.plan), ("sweep", STORAGE)
    if script.is_run_folder(args.plan):
        folder = Folder(args.plan).absolute()
        usual = folder.name, folder.parent.uri
    args.name, args.storage = args.name or usual[0], args.storage or usual[1]
    if args.workers is not None:
        plan = plan.replace(placement=plan.placement.replace(workers=args.workers))
    args.device = plan.placement.device
    summary = script.run_plan(plan, args)
    return 1 if summary.unfinished else 0


def command_status(args: argparse.Namespace) -> int:
    from raysparse.console.status import disk_table, status_table
    from raysparse.console.terminal import console
    from raysparse.run_folder import RunFolder

    folder = RunFolder(args.folder)
    console().print(status_table(folder))
    if args.disk:
        console().print(disk_table(folder))
    return 0


def command_train(args: argparse.Namespace) -> int:
    args.executor = "inline"
    if args.source:
        return _train_from(args)
    if not args.size:
        raise ValueError("train what? Give a SIZE of the ladder, or --from RUN_FOLDER for what a sweep recommends")
    _check_from_scratch(args)
    recipe, fixed = arguments.recipe_from(args), arguments.fixed_from(args)
    density, unique, epochs = said_or_default(args)
    spec = recipe.spec(args.size, density, unique, epochs, seed=args.seed or 0, settings=fixed)
    args.name = args.name or f"train-{spec.trial_id}"
    return _train_one(script.plan_of(args, [spec]), args)


def _check_from_scratch(args: argparse.Namespace) -> None:
    """Raise ValueError for what says something only of a trained model or a sweep."""
    epochs = args.epochs if (args.epochs or "").startswith("+") else None
    flags = {"--row": args.row, "--budget": args.budget, "--again": args.again or None, "--epochs": epochs}
    for flag, value in flags.items():
        if value is not None:
            said = flag if value is True else f"{flag} {value}"
            raise ValueError(
                f"{said} says nothing of SIZE {args.size}, which trains from scratch: name a model or a run "
                f"folder by --from instead of it, or leave {flag} out"
            )


def said_or_default(args: argparse.Namespace) -> tuple[float, int, float]:
    """Density, unique tokens and epochs of a model that is named by its size."""
    density = 0.5 if args.density is None else args.density
    unique = 131_072 if args.unique_tokens is None else args.unique_tokens
    return density, unique, arguments.epochs_from(args.epochs or "1")


def _train_one(plan: Plan, args: argparse.Namespace) -> int:
    [spec] = plan.specs
    summary = script.run_plan(plan, args)
    print(f"trial {spec.trial_id}: {summary.folder.trial(spec.trial_id).uri}")
    return 1 if summary.unfinished else 0


def _train_from(args: argparse.Namespace) -> int:
    """What a run folder recommends, one of its rows again, or a model further."""
    from raysparse.console import training
    from raysparse.run_folder import RunFolder
    from raysparse.sweep.plan import load

    if (args.epochs or "").startswith("+"):
        return training.train_continued(args)
    folder = RunFolder(args.source).absolute()
    if args.row is None:
        training.check_taken(args, {"budget", "again"}, training.OF_RECOMMENDED)
        args.storage = training.storage_beside(args, folder)
        return training.train_recommended(
            args, folder, both=False, budget=args.budget, seed=args.seed, name=args.name, again=args.again
        )
    training.check_taken(args, {"row", "fields", "epochs", "unique_tokens", "density"}, training.OF_ROW)
    plan = load(folder)
    found = [spec for spec in plan.specs if spec.trial_id.startswith(args.row)]
    if len(found) != 1:
        near = nearest(args.row, plan.trial_ids)
        raise ValueError(f"--row {args.row!r} names {len(found)} trials of {folder.uri}, expected one trial id{near}")
    spec = training.row_again(args, found[0], plan.specs)
    args.name, args.storage = args.name or f"train-{spec.trial_id}", training.storage_beside(args, folder)
    return _train_one(script.plan_of(args, [spec]), args)


def command_fields(args: argparse.Namespace) -> int:
    """Every field of a trial with its type, for --set."""
    from raysparse.record import leaves
    from raysparse.spec import TrialSpec

    for path, kind in leaves(TrialSpec):
        choices = get_args(kind)
        print(f"{path:32} {' | '.join(map(str, choices)) if choices else kind.__name__}")
    return 0


def command_data(args: argparse.Namespace) -> int:
    from raysparse.data import describe
    from raysparse.data.corpus import FiniteCorpus, open_corpus

    found = open_corpus(args.corpus, arguments.reading_from(args))
    if not isinstance(found, FiniteCorpus):
        raise ValueError(f"corpus {args.corpus!r} is a stream, whose length nobody knows; describe a local one")
    for line in describe.lines(found, args.tokenizer):
        print(line)
    return 0


def command_memory(args: argparse.Namespace) -> int:
    from raysparse import ladder
    from raysparse.console.tables import memory_table
    from raysparse.console.terminal import console
    from raysparse.placement import Placement
    from raysparse.spec import DataSpec, TrialSpec

    sparsity, optimizer = arguments.engine_from(args)
    spec = TrialSpec(
        model=ladder.model(args.model, vocab_size=args.vocab_size, context=args.context),
        sparsity=sparsity.replace(method="dense" if args.density == 1.0 else args.method, density=args.density),
        data=DataSpec(unique_tokens=args.context * args.batch_sequences + 1),
        optimizer=optimizer,
        precision=args.precision,
    )
    placement = Placement(device=args.device, resident=args.resident, recompute=args.recompute)
    measured = None
    if args.measure:
        from raysparse.train import device
        from raysparse.train.state import TrainState

        device.found(args.device)
        measured = TrainState(spec, placement).bytes_by_kind()
    console().print(memory_table(spec, placement, measured=measured))
    return 0


def command_doctor(args: argparse.Namespace) -> int:
    from raysparse.console.doctor import examine

    return examine(args.storage, args.address or os.environ.get("RAY_ADDRESS", ""))


def parser(*, bare: bool = False) -> argparse.ArgumentParser:
    """bare: `train` has None for what is not said, which tells what is said from what is usual."""
    top = argparse.ArgumentParser(prog="raysparse", description="How big, how sparse, for how many epochs?")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="print a plan and what it will cost; run nothing")
    plan.add_argument("plan", metavar="PLAN", help="a plan.json, or a run folder")
    plan.add_argument("--slots", type=int, default=0, help="trials at once")
    arguments.add_price_argument(plan)
    plan.set_defaults(command=command_plan, executor="ray")

    sweep = verbs.add_parser("sweep", help="run a plan, or what is left of it")
    sweep.add_argument("plan", metavar="PLAN", help="a plan.json, or a run folder, which is then continued")
    arguments.add_run_arguments(sweep)
    sweep.set_defaults(command=command_sweep)

    status = verbs.add_parser("status", help="say where a run folder stands")
    status.add_argument("folder", metavar="RUN_FOLDER", help="for example runs/grid")
    status.add_argument("--disk", action="store_true", help="say also how many bytes its parts take")
    status.set_defaults(command=command_status)

    _add_train(verbs, bare)

    release.add_verbs(verbs)

    _add_memory(verbs)

    data = verbs.add_parser("data", help="say what a corpus holds, and how many unique tokens a sweep can ask for")
    data.add_argument("corpus", metavar="CORPUS", help="a name, file, folder or glob")
    data.add_argument("--tokenizer", nargs="+", default=["bytes"], help="count tokens by these (%(default)s)")
    arguments.add_reading_arguments(data)
    data.set_defaults(command=command_data)

    fields = verbs.add_parser("fields", help="the fields of a trial that --set takes, with their types")
    fields.set_defaults(command=command_fields)

    doctor = verbs.add_parser("doctor", help="check this machine or a cluster: versions, devices, memory, storage")
    doctor.add_argument("--storage", default=STORAGE)
    doctor.add_argument("--address", default="", help="of a Ray cluster: each of its nodes is asked (RAY_ADDRESS)")
    doctor.set_defaults(command=command_doctor)
    return top


def _add_train(verbs: Any, bare: bool) -> None:
    from raysparse.ladder import SHAPES

    train = verbs.add_parser("train", help="train one model in this process, without Ray")
    train.add_argument("size", metavar="SIZE", nargs="?", default="", help=f"one of {', '.join(SHAPES)}")
    train.add_argument(
        "--density", type=float, default=None, help="fraction of the weights kept (0.5, or the model's); 1 trains dense"
    )
    train.add_argument("--unique-tokens", type=int, default=None, help="(131072, or the model's)")
    train.add_argument("--epochs", type=arguments.said, help="passes over them (1); with --from, +2 goes on for 2 more")
    train.add_argument("--seed", type=int, default=None, help="(0, or with --from one that was not used)")
    train.add_argument(
        "--from", dest="source", type=arguments.said, metavar="MODEL",
        help="train what a run folder recommends; with --epochs +N go on from any trained model",
    )  # fmt: skip
    train.add_argument("--row", type=arguments.said, metavar="ID", help="with --from: train this trial of it again")
    train.add_argument("--budget", type=float, default=None, help="with --from: active FLOPs (its dearest run's)")
    train.add_argument(
        "--again", action="store_true", help="with --from: heed the models that were trained from it, too"
    )  # fmt: skip
    train.add_argument("--storage", default=STORAGE)
    train.add_argument(
        "--name", default="", help="run folder (train-TRIAL_ID; of what a sweep recommends, its name and -model)"
    )
    arguments.add_data_arguments(train)
    arguments.add_engine_arguments(train)
    arguments.add_device_arguments(train)
    train.set_defaults(
        command=command_train, address="", slots=0, gpus=0.0, workers=1, min_workers=0, max_flops=None, scheduler="",
        dashboard=True, halving=False, batch_sequences=16, validation_tokens=65_536,
        update_every=100, evaluations=8,
    )  # fmt: skip
    if bare:
        train.set_defaults(**dict.fromkeys(vars(train.parse_args([]))))


def _add_memory(verbs: Any) -> None:
    from raysparse.ladder import SHAPES
    from raysparse.spec import Method

    memory = verbs.add_parser("memory", help="bytes of one worker by kind, predicted, and measured with --measure")
    memory.add_argument("--model", required=True, metavar="SIZE", help=f"one of {', '.join(SHAPES)}")
    memory.add_argument("--density", type=float, default=0.1, help="fraction of the weights kept (%(default)s)")
    memory.add_argument("--method", choices=get_args(Method), default="smet", help="(%(default)s)")
    for flag, number in (("--vocab-size", 32_000), ("--context", 256)):
        memory.add_argument(flag, type=int, default=number, help="(%(default)s)")
    memory.add_argument(
        "--micro-batch", type=int, default=32, dest="batch_sequences", help="sequences in a forward pass (%(default)s)"
    )
    memory.add_argument("--device", default="cpu", help="where products run, cpu or cuda (%(default)s)")
    memory.add_argument("--measure", action="store_true", help="build the model and add up its storages")
    arguments.add_engine_arguments(memory, precision="bf16", moments="bf16_stochastic")
    memory.set_defaults(command=command_memory, update_every=100)


@script.guarded
def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.verb == "train":
        bare = vars(parser(bare=True).parse_args(argv))
        args.said = [name for name, value in bare.items() if value is not None and name != "verb"]
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


if __name__ == "__main__":
    sys.exit(main())
