"""What a sweep script needs: its arguments, its plan, running it, and the answer at the end.

A script in `sweeps/` is a question: it says which points, and leaves the rest to this file and to
the library below. What a user can cause (ValueError, and what the system says about files and
connections) is printed as one line with exit status 2; anything else is our bug and keeps its
traceback. Slow imports wait until they are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from raysparse.console import arguments
from raysparse.console.terminal import replace_what_cannot_be_printed

if TYPE_CHECKING:
    from raysparse.files import Folder
    from raysparse.run_folder import RunFolder
    from raysparse.spec import TrialSpec
    from raysparse.sweep.plan import Plan
    from raysparse.sweep.planners.base import Planner
    from raysparse.sweep.runner import Summary
    from raysparse.sweep.settings import Settings

# Packages that an install may lack, and the extra that brings them.
EXTRAS = {"torch": "train", "tensorboard": "train", "ray": "sweep", "optuna": "sweep", "scipy": "analysis",
          "matplotlib": "analysis", "datasets": "text", "tokenizers": "text"}  # fmt: skip

Arguments = ParamSpec("Arguments")


def guarded(command: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A command that returns its exit status whatever the user did: 2 with one line on stderr, 130
    after Ctrl-C.
    """

    @functools.wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        replace_what_cannot_be_printed()
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            if not (remedy := _remedy(error)):
                raise
            print(f"error: {error}; {remedy}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nstopped; finished trials are kept. Run the same command again to continue.", file=sys.stderr)
            return 130

    return run


def _remedy(error: ModuleNotFoundError) -> str:
    """What brings a module that is not there; "" where that is our own bug."""
    name = error.name or ""
    if name in EXTRAS:
        return f"pip install '.[{EXTRAS[name]}]' in the clone of raysparse"
    other = getattr(sys.modules.get("analysis"), "__file__", None)
    if name.startswith("analysis.") and other and Path(other).parents[1] != Path(__file__).parents[2]:
        return f"{other} hides the analysis of raysparse; start in another folder, or as `python -P -m ...`"
    return ""


def parser(about: str, *, name: str) -> argparse.ArgumentParser:
    """The parser of a sweep script: `name` is its run folder. Scripts add their axes to it."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_plan_argument(made)
    made.add_argument("--max-flops", type=float, help="never compute more than this in all")
    made.add_argument(
        "--halving", action="store_true", help="stop trials that fall behind others of the same budget (ASHA)"
    )
    arguments.add_data_arguments(made)
    arguments.add_engine_arguments(made)
    arguments.add_device_arguments(made)
    arguments.add_run_arguments(made, name=name)
    return made


def study_parser(about: str, *, name: str) -> argparse.ArgumentParser:
    """The parser of a script whose trials are its own: it takes where and how they run, no more."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_plan_argument(made)
    arguments.add_device_arguments(made)
    arguments.add_run_arguments(made, name=name)
    made.set_defaults(max_flops=None, halving=False, resident=False, recompute="auto")
    return made


def _add_plan_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plan", nargs="?", const="", metavar="FILE", help="print the plan and its cost, run nothing; write it to FILE"
    )


def plan_of(args: argparse.Namespace, specs: Sequence[TrialSpec] = (), planner: Planner | None = None) -> Plan:
    """A plan of trials, or of a planner, that runs as the arguments say."""
    from raysparse.sweep.budget import Budget
    from raysparse.sweep.halving import Halving
    from raysparse.sweep.plan import Plan

    placement = arguments.placement_from(args)
    budget = Budget(total=args.max_flops)
    plan = Plan(
        specs=tuple(specs), placement=placement, budget=budget, planner=planner,
        stopping=Halving() if args.halving else None,
    )  # fmt: skip
    return plan if placement.device == "cpu" else measured_plan(plan)


def measured_plan(plan: Plan) -> Plan:
    """A plan for a GPU with what its card holds and how fast it trains, if there is one here: a few
    seconds of training tell.
    """
    import torch

    from raysparse.sweep.plan import ELSEWHERE, Throughput
    from raysparse.train import device, speed

    if not torch.cuda.is_available():
        return plan.replace(throughput=ELSEWHERE)
    card = device.found(plan.placement.device)
    plan = plan.replace(device_bytes=device.memory_bytes(card), throughput=ELSEWHERE)
    if not plan.specs:
        return plan
    rate, besides, what = speed.measured(plan.specs, plan.placement)
    source = f"measured here on {torch.cuda.get_device_name(card)}, {what}"
    return plan.replace(throughput=Throughput(flops_per_second=rate, seconds_per_step=besides, source=source))


def run(plan: Plan, args: argparse.Namespace) -> Summary | None:
    """Run a plan and print how it went; with --plan only print (and write) it, and return None."""
    if args.plan is None:
        return run_plan(plan, args)
    show_plan(plan, args)
    if args.plan:
        save_plan(plan, args.plan)
    return None


def settings_from(args: argparse.Namespace) -> Settings:
    from raysparse.sweep.settings import Settings

    address = args.address or (os.environ.get("RAY_ADDRESS", "") if args.executor == "ray" else "")
    gpus = args.gpus or float(args.executor == "ray" and args.device.startswith("cuda"))
    return Settings(
        executor=args.executor, address=address, slots=args.slots, gpus=gpus, scheduler=args.scheduler,
        min_workers=args.min_workers, dashboard=args.dashboard,
    )  # fmt: skip


def run_folder(args: argparse.Namespace) -> RunFolder:
    from raysparse.files import Folder
    from raysparse.run_folder import RunFolder

    return RunFolder.named(Folder(args.storage), args.name)


def run_plan(plan: Plan, args: argparse.Namespace, *, only: Collection[str] = ()) -> Summary:
    """Run a plan as the run arguments say and print how it went; only: of these trials."""
    from raysparse.console.progress import Display
    from raysparse.console.terminal import console
    from raysparse.files import Folder
    from raysparse.run_folder import TABLE
    from raysparse.sweep import runner

    view = Display(console=console())
    summary = runner.run(plan, Folder(args.storage), args.name, settings_from(args), view=view, only=only)
    done = f"{summary.finished} of {summary.trials} trials are finished"
    where = summary.folder.at(TABLE)
    tried = summary.ran or summary.unfinished
    view.say(f"{done}: {where}" if tried else f"nothing to do: {done} already: {where}")
    if summary.unaffordable:
        view.say(f"{summary.unaffordable} trials did not fit the budget; raise it and run again to add them")
    for name, reason in summary.unfinished.items():
        view.say(f"{name}: {reason}")
    if summary.unfinished:
        view.say(f"{len(summary.unfinished)} trials ended badly; run again to try them once more")
    return summary


def show_plan(plan: Plan, args: argparse.Namespace) -> None:
    """Print a plan and its cost."""
    from raysparse.console.tables import plan_table
    from raysparse.console.terminal import console
    from raysparse.record import require

    require(args.slots >= 0, "--slots", args.slots, "0 (as many as fit) or more")
    require(0.0 <= args.price_per_hour < math.inf, "--price-per-hour", args.price_per_hour, "0 (not known) or more")
    slots = args.slots or (1 if args.executor == "inline" else max(1, (os.cpu_count() or 1) // plan.placement.workers))
    console(soft_wrap=False).print(plan_table(plan, slots=slots, hourly=args.price_per_hour))


def save_plan(plan: Plan, path: str) -> None:
    """Write a plan file for `raysparse sweep`."""
    from raysparse.files import as_json, write_file_atomically

    write_file_atomically(Path(path), as_json(plan.to_dict()))


def is_run_folder(path: str) -> bool:
    """Whether PLAN is a folder; otherwise it is a file."""
    return Path(path).is_dir() or "://" in path


def load_plan(path: str) -> Plan:
    """A plan from a JSON file, or from a run folder."""
    import json

    from raysparse.files import Folder
    from raysparse.sweep.plan import Plan, load

    if is_run_folder(path):
        return load(Folder(path))
    if not Path(path).is_file():
        raise ValueError(f"there is no plan {path!r}; `python sweeps/grid.py --plan FILE` writes one")
    try:
        return Plan.from_dict(json.loads(Path(path).read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"plan {path!r} is not valid JSON: {error}") from error


def report(args: argparse.Namespace, *, title: str) -> None:
    """Fit the laws to the results and print what they say; the answer is kept in the run folder,
    and printed again until the next trial begins, which deletes it (`runner`), or the analysis is
    another one.
    """
    from raysparse.run_folder import ANALYSIS, ANSWER

    folder, analysis = run_folder(args), {"sha256": _fingerprint("analysis")}
    if not folder.report.exists(ANSWER) or folder.report.read_json_if_there(ANALYSIS) != analysis:
        from analysis.beside import second
        from analysis.show.report import write_report
        from raysparse.results import Results

        with _drawn_for(folder.report) as place, second() as beside:
            written = write_report(Results(folder).table(), place, title=title, beside=beside)
        text = "\n".join([written.summary, *_left_out(folder)])
        folder.report.delete(ANSWER)
        folder.report.write_json(ANALYSIS, analysis)
        folder.report.write(ANSWER, text.encode())
    print(f"\n{folder.report.read(ANSWER).decode()}\nreport: {folder.report.at('report.html')}")


def _fingerprint(package: str) -> str:
    """Of the sources of a package that is installed, which is not imported."""
    from importlib.util import find_spec

    from raysparse.files import checksum

    found = find_spec(package)
    assert found is not None
    files = sorted(path for root in found.submodule_search_locations or () for path in Path(root).rglob("*.py"))
    return checksum(b"".join(path.read_bytes() for path in files))


@contextlib.contextmanager
def _drawn_for(report: Folder) -> Iterator[Path]:
    """A local folder to draw a report into; for an object store what is there at the end is sent to
    `report`.
    """
    if report.is_local:
        yield report.local_path
        return
    with tempfile.TemporaryDirectory(prefix="raysparse-report-") as here:
        yield Path(here)
        for path in sorted(path for path in Path(here).rglob("*") if path.is_file()):
            report.write(path.relative_to(here).as_posix(), path.read_bytes())


def _left_out(folder: RunFolder) -> list[str]:
    """What of the corpora of a run folder was not trained on; a line each."""
    from raysparse.data.manifest import Manifest
    from raysparse.sweep.plan import load

    sets = dict.fromkeys((spec.data.corpus, spec.data.tokenizer, spec.data.reading) for spec in load(folder).specs)
    found = [Manifest.read(folder.tokens(corpus, tokenizer, reading)) for corpus, tokenizer, reading in sets]
    return [f"corpus {each.corpus}: {line}" for each in found if each is not None for line in each.lines()]
