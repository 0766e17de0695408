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
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, get_args

from raysparse.console import arguments
from raysparse.console.arguments import STORAGE

if TYPE_CHECKING:
    from raysparse.run_folder import RunFolder
    from raysparse.sweep.plan import Plan
    from raysparse.sweep.runner import Summary
    from raysparse.sweep.settings import Settings

Arguments = ParamSpec("Arguments")


def guarded(command: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A command that returns its exit status whatever the user did: 2 with one line on stderr, 130
    after Ctrl-C.
    """

    @functools.wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped; finished trials are kept. Run the same command again to continue.", file=sys.stderr)
            return 130

    return run


def settings_from(args: argparse.Namespace) -> Settings:
    from raysparse.sweep.settings import Settings

    address = args.address or (os.environ.get("RAY_ADDRESS", "") if args.executor == "ray" else "")
    return Settings(executor=args.executor, address=address, slots=args.slots, gpus=args.gpus)


def run_folder(args: argparse.Namespace) -> RunFolder:
    from raysparse.files import Folder
    from raysparse.run_folder import RunFolder

    return RunFolder.named(Folder(args.storage), args.name)


def run_plan(plan: Plan, args: argparse.Namespace) -> Summary:
    """Run a plan as the run arguments say and print how it went."""
    from rich.console import Console

    from raysparse.console.progress import Display
    from raysparse.files import Folder
    from raysparse.sweep import runner

    console = Console(highlight=False, soft_wrap=True)
    summary = runner.run(plan, Folder(args.storage), args.name, settings_from(args), view=Display(console=console))
    where = summary.folder.uri
    if summary.ran:
        console.print(f"{summary.finished} of {summary.trials} trials are finished: {where}/results.parquet")
    else:
        console.print(
            f"nothing to do: {summary.finished} of {summary.trials} trials are finished already: "
            f"{where}/results.parquet"
        )
    if summary.unaffordable:
        console.print(f"{summary.unaffordable} trials did not fit the budget; raise it and run again to add them")
    for name, reason in summary.unfinished.items():
        console.print(f"{name}: {reason}")
    if summary.unfinished:
        console.print(f"{len(summary.unfinished)} trials ended badly; run again to try them once more")
    return summary


def show_plan(plan: Plan, args: argparse.Namespace) -> None:
    """Print a plan and its cost."""
    from rich.console import Console

    from raysparse.console.tables import plan_table

    slots = args.slots or (1 if args.executor == "inline" else max(1, (os.cpu_count() or 1) // plan.placement.workers))
    Console(highlight=False).print(plan_table(plan, slots=slots))


def save_plan(plan: Plan, path: str) -> None:
    """Write a plan file for `raysparse sweep`."""
    import json

    from raysparse.files import write_file_atomically

    write_file_atomically(Path(path), (json.dumps(plan.to_dict(), indent=1) + "\n").encode())


def load_plan(path: str) -> Plan:
    """A plan from a JSON file, or from a run folder."""
    import json

    from raysparse.files import Folder
    from raysparse.sweep.plan import Plan, load

    if Path(path).is_dir() or "://" in path:
        return load(Folder(path))
    if not Path(path).is_file():
        raise ValueError(f"there is no plan {path!r}; `python sweeps/grid.py --plan FILE` writes one")
    try:
        return Plan.from_dict(json.loads(Path(path).read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"plan {path!r} is not valid JSON: {error}") from error


def command_plan(args: argparse.Namespace) -> int:
    show_plan(load_plan(args.plan), args)
    return 0


def command_sweep(args: argparse.Namespace) -> int:
    summary = run_plan(load_plan(args.plan), args)
    return 1 if summary.unfinished else 0


def command_status(args: argparse.Namespace) -> int:
    from rich.console import Console

    from raysparse.console.tables import status_table
    from raysparse.run_folder import RunFolder

    Console(highlight=False, soft_wrap=True).print(status_table(RunFolder(args.folder)))
    return 0


def command_train(args: argparse.Namespace) -> int:
    from raysparse.data.tokenizer import vocab_size
    from raysparse.spec import DataSpec, Placement
    from raysparse.sweep.plan import Plan
    from raysparse.sweep.planners.recipe import Recipe

    sparsity, optimizer = arguments.engine_from(args)
    recipe = Recipe(
        vocab_size=vocab_size(args.tokenizer),
        method=args.method,
        context=args.context,
        data=DataSpec(corpus=args.corpus, tokenizer=args.tokenizer, validation_tokens=args.validation_tokens),
        sparsity=sparsity,
        optimizer=optimizer,
        precision=args.precision,
    )
    spec = recipe.spec(args.size, args.density, args.unique_tokens, args.epochs, seed=args.seed)
    args.executor, args.name = "inline", args.name or f"train-{spec.trial_id}"
    summary = run_plan(Plan(specs=(spec,), placement=Placement(resident=args.resident)), args)
    print(f"trial {spec.trial_id}: {summary.folder.uri}/trials/{spec.trial_id}")
    return 1 if summary.unfinished else 0


def command_ledger(args: argparse.Namespace) -> int:
    from rich.console import Console

    from raysparse import ladder
    from raysparse.console.tables import ledger_table
    from raysparse.spec import DataSpec, Placement, TrialSpec

    sparsity, optimizer = arguments.engine_from(args)
    spec = TrialSpec(
        model=ladder.model(args.model, vocab_size=args.vocab_size, context=args.context),
        sparsity=sparsity.replace(method="dense" if args.density == 1.0 else args.method, density=args.density),
        data=DataSpec(unique_tokens=args.context * args.batch_sequences + 1),
        optimizer=optimizer,
        precision=args.precision,
    )
    measured = None
    if args.measure:
        from raysparse.train.state import TrainState

        measured = TrainState(spec, Placement(device=args.device, resident=args.resident)).bytes_by_kind()
    Console(highlight=False, soft_wrap=True).print(
        ledger_table(
            spec, micro_batch=args.batch_sequences, device=args.device, resident=args.resident, measured=measured
        )
    )
    return 0


def command_doctor(args: argparse.Namespace) -> int:
    from raysparse.console.doctor import examine

    return examine(args.storage)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="raysparse", description="How big, how sparse, for how many epochs?")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    plan = verbs.add_parser("plan", help="print a plan and what it will cost; run nothing")
    plan.add_argument("plan", metavar="PLAN", help="a plan.json, or a run folder")
    plan.add_argument("--slots", type=int, default=0, help="trials at once")
    plan.set_defaults(command=command_plan, executor="ray")

    sweep = verbs.add_parser("sweep", help="run a plan, or what is left of it")
    sweep.add_argument("plan", metavar="PLAN", help="a plan.json, or a run folder")
    arguments.add_run_arguments(sweep, name="sweep")
    sweep.set_defaults(command=command_sweep)

    status = verbs.add_parser("status", help="say where a run folder stands")
    status.add_argument("folder", metavar="RUN_FOLDER", help="for example runs/grid")
    status.set_defaults(command=command_status)

    _add_train(verbs)

    _add_ledger(verbs)

    doctor = verbs.add_parser("doctor", help="check this machine: versions, devices, memory, storage, Ray")
    doctor.add_argument("--storage", default=STORAGE)
    doctor.set_defaults(command=command_doctor)
    return top


def _add_train(verbs: Any) -> None:
    from raysparse.ladder import SHAPES
    from raysparse.spec import Method

    train = verbs.add_parser("train", help="train one model in this process, without Ray")
    train.add_argument("size", metavar="SIZE", help=f"one of {', '.join(SHAPES)}")
    train.add_argument(
        "--density", type=float, default=0.5, help="fraction of the weights kept (%(default)s); 1 trains dense"
    )
    train.add_argument("--method", choices=get_args(Method), default="smet")
    train.add_argument("--unique-tokens", type=int, default=131_072)
    train.add_argument("--epochs", type=float, default=1.0)
    train.add_argument("--batch-sequences", type=int, default=16)
    train.add_argument("--context", type=int, default=128, help="tokens a sequence (%(default)s)")
    train.add_argument("--corpus", default="python", help="a name, path, glob, or hf:NAME (%(default)s)")
    train.add_argument("--tokenizer", default="bytes", help="bytes, bpe:VOCABULARY, or hf:NAME (%(default)s)")
    train.add_argument("--validation-tokens", type=int, default=65_536)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--storage", default=STORAGE)
    train.add_argument("--name", default="", help="run folder (default: train-TRIAL_ID)")
    arguments.add_engine_arguments(train)
    train.set_defaults(command=command_train, address="", slots=0, gpus=0.0)


def _add_ledger(verbs: Any) -> None:
    from raysparse.ladder import SHAPES
    from raysparse.spec import Method

    ledger = verbs.add_parser("ledger", help="bytes of one worker by kind, predicted, and measured with --measure")
    ledger.add_argument("--model", required=True, metavar="SIZE", help=f"one of {', '.join(SHAPES)}")
    ledger.add_argument("--density", type=float, default=0.1, help="fraction of the weights kept (%(default)s)")
    ledger.add_argument("--method", choices=get_args(Method), default="smet", help="(%(default)s)")
    for flag, number in (("--vocab-size", 32_000), ("--context", 256)):
        ledger.add_argument(flag, type=int, default=number, help="(%(default)s)")
    ledger.add_argument(
        "--micro-batch", type=int, default=32, dest="batch_sequences", help="sequences in a forward pass (%(default)s)"
    )
    ledger.add_argument("--device", default="cpu", help="where products run, cpu or cuda (%(default)s)")
    ledger.add_argument("--measure", action="store_true", help="build the model and add up its storages")
    arguments.add_engine_arguments(ledger, precision="bf16", moments="bf16_stochastic")
    ledger.set_defaults(command=command_ledger)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    return command(args)


if __name__ == "__main__":
    sys.exit(main())
