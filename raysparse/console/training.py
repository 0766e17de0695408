"""Training what a sweep recommends, and saying how the measurement compares with the prediction;
and going on from a model that is trained.

The recommended run and the best of the other kind (dense beside sparse, sparse beside dense) are
trained with a seed that the sweep has not used, in a run folder of their own, `<name>-model`, so
that they test the fit that chose them. What is then to be said of sparsity comes from a second
answer, whose table has their rows too.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from raysparse.console import arguments, script
from raysparse.run_folder import MODEL_SUFFIX
from raysparse.units import amount, count

# What --from takes whatever it names: how to train, which seed, and where to.
ALWAYS_TAKEN = {
    "source", "seed", "name", "storage", "device", "micro_batch", "compile", "checkpoint_seconds", "keep", "resident",
    "recompute",
}  # fmt: skip
OF_RECOMMENDED = "what is recommended has its own; to go on from a trained model say --epochs +N"
OF_ROW = "a trial is trained again as it was; --seed, --epochs, --unique-tokens, --density and --set change it"
OF_CONTINUED = "a model that goes on has its own; --set changes it"
OF_MASKS = {"method", "layout", "block", "balanced", "update_every"}  # a dense model that is made sparse takes them

if TYPE_CHECKING:
    from analysis.answer.choice import BestRun, Choice
    from raysparse.run_folder import RunFolder
    from raysparse.spec import SparsitySpec, TrialSpec
    from raysparse.sweep.plan import Plan
    from raysparse.sweep.runner import Summary


def train_recommended(
    args: argparse.Namespace, folder: RunFolder, *, both: bool, budget: float | None = None,
    unique_tokens: float | None = None, seed: int | None = None, name: str = "", again: bool = False,
) -> int:  # fmt: skip
    """Train what the table of `folder` recommends; `both`: the best of the other kind beside it.
    name: of the run folder, `<name of the sweep>-model` where it is "". again: the models that were
    trained there are in the table, too.

    Returns an exit status. Raises ValueError when the folder has no results to recommend from.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from raysparse.results import Results
    from raysparse.run_folder import CHECKPOINT, TRIALS, RunFolder
    from raysparse.sweep.plan import load
    from raysparse.sweep.planners.recommended import answer_of, trial_of

    plan, table = load(folder), Results(folder).table()
    if not len(table):
        raise ValueError(f"{folder.uri} has no finished trial yet, so it recommends nothing; run its sweep first")
    args.name, args.storage = name or f"{folder.name}{MODEL_SUFFIX}", folder.storage.uri
    models = RunFolder.named(folder.storage, f"{folder.name}{MODEL_SUFFIX}")
    heeded = Results(models).table() if again else table[:0]
    if again and not len(heeded):
        raise ValueError(f"--again: {models.uri} has no model that was trained from this sweep; leave --again out")
    rows = [*table.to_pylist(), *heeded.to_pylist()]
    best = answer_of(table, trained=heeded, budget=budget, unique_tokens=unique_tokens)
    seeds = [spec.seed for spec in plan.specs] + [row["seed"] for row in rows]
    other = best.sparse if choice_name(best.best) == "dense" else best.dense
    choices = [best.best, *([other] if both and other is not None else [])]
    fresh = 1 + max(seeds) if seed is None else seed
    specs = {choice_name(choice): trial_of(choice, rows, best, seed=fresh) for choice in choices}
    ids = [spec.trial_id for spec in specs.values()]
    summary = _run_first(args, plan, specs.values(), () if name else earlier_recommendations(args, ids))
    trained = Results(summary.folder).table()  # with what was recommended earlier, as --again has it
    ours = trained.filter(pc.is_in(trained["trial_id"], pa.array(ids)))
    measured = {row["trial_id"]: row["validation_loss"] for row in ours.to_pylist()}
    print()
    for choice, spec in zip(choices, specs.values(), strict=True):
        print("\n".join(compared(choice, spec, measured.get(spec.trial_id), best)))
    if said := between(specs, measured, best):
        print(said)
        now = answer_of(table, trained=trained, budget=best.budget, unique_tokens=best.unique)
        print("\n".join(with_both(now, folder)))
    print(f"models: {summary.folder.at(TRIALS, '<id>', CHECKPOINT)}")
    return 1 if summary.unfinished else 0


def earlier_recommendations(args: argparse.Namespace, ids: Collection[str]) -> tuple[TrialSpec, ...]:
    """What the models' folder holds beside the trials `ids`: a smaller sweep recommended it, or an
    earlier call trained more.
    """
    from raysparse.sweep.plan import load_if_there

    held = load_if_there(script.run_folder(args))
    return () if held is None else tuple(spec for spec in held.specs if spec.trial_id not in ids)


def _run_first(
    args: argparse.Namespace, sweep: Plan, specs: Iterable[TrialSpec], earlier: Sequence[TrialSpec]
) -> Summary:
    """Run `specs` alone, in a plan that holds them before `earlier`: its first trial is the
    recommended one (`release.opened`).
    """
    from raysparse.sweep.plan import load

    placement, specs = arguments.placement_from(args), tuple(specs)
    plan = sweep.replace(
        specs=(*specs, *earlier), planner=None, stopping=None, budget=sweep.budget.replace(total=None),
        placement=placement.replace(threads=sweep.placement.threads),
    )  # fmt: skip
    args.scheduler = ""  # which would stop one of the two that are to be compared
    if not script.settings_from(args).address and placement.device == "cpu" and placement.workers == 1:
        args.executor = "inline"  # one or two trials on this machine's CPUs: starting Ray would take longer
    summary = script.run_plan(plan, args, only=[spec.trial_id for spec in specs])
    if load(summary.folder).specs != plan.specs:  # nothing was run, and another is recommended now
        plan.save(summary.folder)
    return summary


def check_taken(args: argparse.Namespace, takes: Collection[str], why: str) -> None:
    """Raise ValueError for the first argument that is said, beside those that --from always takes,
    and is not one of `takes`; `why` is the end of the line.
    """
    for name in args.said:
        if name in ALWAYS_TAKEN or name in takes:
            continue
        value = getattr(args, name)
        flag = {"size": "SIZE", "fields": "--set"}.get(name, f"--{name.replace('_', '-')}")
        said = "" if value is True else f" {shlex.join(value) if isinstance(value, list) else shlex.quote(str(value))}"
        raise ValueError(f"{flag}{said} and --from {args.source}: {why}")


def storage_beside(args: argparse.Namespace, folder: RunFolder) -> str:
    """The storage that what --from names lies in, where the new run folder will lie too. Raises
    ValueError where --storage says another.
    """
    from raysparse.files import Folder

    storage, said = folder.storage, Folder(args.storage)
    is_same = said.local_path == storage.local_path if said.is_local and storage.is_local else said.uri == storage.uri
    if "storage" in args.said and not is_same:
        raise ValueError(f"--storage {args.storage} and --from {args.source}: the new run folder lies beside that one")
    return storage.uri


def row_again(args: argparse.Namespace, spec: TrialSpec, others: Iterable[TrialSpec]) -> TrialSpec:
    """The trial of --row as the arguments change it; its name, which is for people, says how. A
    dense one that becomes sparse takes the rule of the sparse ones among `others`.

    Raises ValueError where these have several and --set does not say which.
    """
    density = None if args.density == spec.sparsity.density else args.density
    epochs = None if args.epochs is None else arguments.epochs_from(args.epochs)
    said = {"seed": args.seed, "data.unique_tokens": args.unique_tokens, "data.epochs": epochs}
    said = {path: value for path, value in (said | arguments.fixed_from(args)).items() if value is not None}
    said = {path: value for path, value in said.items() if value != spec.at(path)}
    rule = None
    if spec.sparsity.density == 1.0 and density is not None:
        rule = _rule_of(args, others)
    changed = spec.replace(sparsity=_other_density(args, spec.sparsity, rule) or spec.sparsity)
    for path, value in said.items():
        changed = changed.with_field(path, value)
    told = {"density": density, **{path.rpartition(".")[2]: value for path, value in said.items()}}
    words = " ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    return changed.replace(name=f"{spec.name}, again with {words}") if words else spec


def _rule_of(args: argparse.Namespace, others: Iterable[TrialSpec]) -> SparsitySpec | None:
    """The one sparse rule of `others` that has what --set says of it; None where there is none."""
    said = {path: value for path, value in arguments.fixed_from(args).items() if path.startswith("sparsity.")}
    sparse = [other for other in others if other.sparsity.density < 1.0]
    fitting = [other for other in sparse if all(other.at(path) == value for path, value in said.items())]
    rules = {other.sparsity.replace(density=args.density) for other in fitting}
    if len(rules) > 1:
        names = ", ".join(sorted({f"{rule.method} of layout {rule.layout}" for rule in rules}))
        raise ValueError(
            f"--density {args.density:g}: the sparse trials beside this dense one have {len(rules)} rules ({names}); "
            f"say which by --set sparsity.method=... and other fields of it (`raysparse fields` lists them)"
        )
    return next(iter(rules), None)


def train_continued(args: argparse.Namespace) -> int:
    """Go on from a trained model: a new trial, with its parent in the row. Returns an exit status.

    Raises ValueError when there is no model, it is not trained to its end, or an argument is given
    that says nothing here.
    """
    from raysparse.files import Folder
    from raysparse.release.continued import continued_spec, save_start
    from raysparse.release.opened import open_model, run_folder_of
    from raysparse.run_folder import RunFolder

    if args.row or args.budget is not None:
        raise ValueError(
            f"--epochs {args.epochs} goes on from MODEL: name the trial by --from, without --row, --budget"
        )
    parent = open_model(args.source)
    is_made_sparse = parent.spec.sparsity.density == 1.0 and (args.density or 1.0) < 1.0
    takes = {"epochs", "density", "unique_tokens", "fields", *(OF_MASKS if is_made_sparse else ())}
    check_taken(args, takes, OF_CONTINUED)
    spec = continued_spec(
        parent, arguments.epochs_from(args.epochs), unique_tokens=args.unique_tokens,
        sparsity=_other_density(args, parent.spec.sparsity), seed=args.seed,
    )  # fmt: skip
    for path, value in arguments.fixed_from(args).items():
        spec = spec.with_field(path, value)
    args.name = args.name or f"train-{spec.trial_id}"
    args.storage = args.storage if parent.exported else storage_beside(args, run_folder_of(parent.where))
    plan = script.plan_of(args, [spec])
    folder = RunFolder.named(Folder(args.storage), args.name)
    plan.check(folder)
    save_start(parent, spec, folder.trial(spec.trial_id))
    print(f"from {parent.describe()}")
    print(
        f"{spec.steps} steps more with a schedule of their own, up to a rate of {spec.optimizer.lr:.3g} again and "
        f"down; the parent's tokens and FLOPs are in the parent's row"
    )
    summary = script.run_plan(plan, args)
    print(f"trial {spec.trial_id}: {summary.folder.trial(spec.trial_id).uri}")
    return 1 if summary.unfinished else 0


def _other_density(
    args: argparse.Namespace, rule: SparsitySpec, sparse: SparsitySpec | None = None
) -> SparsitySpec | None:
    """The sparsity that --density asks for; None keeps the parent's. sparse: the rule of a dense
    model that becomes sparse; None is what the arguments say.
    """
    if args.density is None or args.density == rule.density:
        return None
    if args.density == 1.0:
        return rule.replace(method="dense", density=1.0, layout="element", block=1, balanced=False)
    if rule.density < 1.0:
        return rule.replace(density=args.density)
    if sparse is None:
        sparse = arguments.engine_from(args)[0].replace(method=args.method)
    return sparse.replace(density=args.density)


def choice_name(choice: Choice) -> str:
    return "dense" if choice.density.value == 1.0 else "sparse"


def compared(choice: Choice, spec: TrialSpec, measured: float | None, best: BestRun) -> list[str]:
    """Predicted against measured, as lines."""
    from raysparse import counts

    what = "recommended" if choice is best.best else f"best {choice_name(choice)}"
    settings = "".join(f", {name} {value.value:.3g}" for name, value in choice.settings.items())
    active = counts.parameters(spec.model, spec.sparsity).active_non_embedding
    lines = [
        f"{what}: {spec.model.name} ({count(active)} active weights), density {spec.sparsity.density:.3g}, "
        f"{spec.data.epochs:.3g} epochs over {count(spec.data.unique_tokens)} tokens{settings} "
        f"({amount(counts.flops(spec)[0])} active FLOPs) [{spec.trial_id}]"
    ]
    loss = choice.loss
    said = f"  predicted {loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}] nats per token"
    if measured is None:
        return [*lines, f"{said}, not measured"]
    where = "inside" if loss.low <= measured <= loss.high else "OUTSIDE"
    return [*lines, f"{said}, measured {measured:.3f} ({where} the interval)"]


def with_both(best: BestRun, folder: RunFolder) -> list[str]:
    """What the table says once the rows of both trainings are in it, as lines."""
    from analysis.show.best import short, verdict

    return [
        f"with both in the table, {verdict(best)}",
        f"and it would train: {short(best.best)} (`raysparse train --from {shlex.quote(folder.uri)} --again` does)",
    ]


def between(specs: Mapping[str, TrialSpec], measured: Mapping[str, float | None], best: BestRun) -> str:
    """What two trainings say of sparsity, beside what was predicted; "" unless both ended."""
    losses = {kind: measured.get(spec.trial_id) for kind, spec in specs.items()}
    dense, sparse, said = losses.get("dense"), losses.get("sparse"), best.difference
    if dense is None or sparse is None or said is None:
        return ""
    return (
        f"dense minus sparse: predicted {said.value:.3f} [{said.low:.3f}, {said.high:.3f}] for the mean over seeds, "
        f"measured {dense - sparse:.3f} nats (one training of each)"
    )
