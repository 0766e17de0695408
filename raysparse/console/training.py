"""Training what a sweep recommends, and saying how the measurement compares with the prediction.

The recommended run and the best of the other kind (dense beside sparse, sparse beside dense) are
trained with a seed that the sweep has not used, in a run folder of their own, `<name>-model`: rows
that were chosen for their prediction do not enter the fit that predicted them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raysparse.console import arguments, script
from raysparse.units import amount, count

if TYPE_CHECKING:
    from analysis.answer.choice import BestRun, Choice
    from raysparse.run_folder import RunFolder
    from raysparse.spec import TrialSpec

SUFFIX = "-model"


def train_recommended(
    args: argparse.Namespace, folder: RunFolder, *, both: bool, budget: float | None = None,
    unique_tokens: float | None = None, seed: int | None = None,
) -> int:  # fmt: skip
    """Train what the table of `folder` recommends; `both`: the best of the other kind beside it.

    Returns an exit status. Raises ValueError when the folder has no results to recommend from.
    """
    from raysparse.results import Results
    from raysparse.sweep.plan import load
    from raysparse.sweep.planners.recommended import answer_of, trial_of

    plan, results = load(folder), Results(folder)
    rows = results.rows()
    if not rows:
        raise ValueError(f"{folder.uri} has no finished trial yet, so it recommends nothing; run its sweep first")
    best = answer_of(results.table(), budget=budget, unique_tokens=unique_tokens)
    fresh = 1 + max(spec.seed for spec in plan.specs) if seed is None else seed
    other = best.sparse if choice_name(best.best) == "dense" else best.dense
    choices = [best.best, *([other] if both and other is not None else [])]
    specs = {choice_name(choice): trial_of(choice, rows, best, seed=fresh) for choice in choices}
    args.name = f"{folder.name}{SUFFIX}"
    args.storage = folder.storage.uri
    args.scheduler = ""  # which would stop one of the two that are to be compared
    placement = arguments.placement_from(args)
    chosen = plan.replace(
        specs=tuple(specs.values()), planner=None, stopping=None, budget=plan.budget.replace(total=None),
        placement=placement.replace(threads=plan.placement.threads),
    )  # fmt: skip
    if not script.settings_from(args).address and placement.device == "cpu" and placement.workers == 1:
        args.executor = "inline"  # one or two trials on this machine's CPUs: starting Ray would take longer
    summary = script.run_plan(chosen, args)
    measured = {row["trial_id"]: row["validation_loss"] for row in Results(summary.folder).rows()}
    print()
    for choice, spec in zip(choices, specs.values(), strict=True):
        print("\n".join(compared(choice, spec, measured.get(spec.trial_id), best)))
    for line in between(specs, measured, best):
        print(line)
    print(f"models: {summary.folder.uri}/trials/<id>/checkpoint")
    return 1 if summary.unfinished else 0


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


def between(specs: Mapping[str, TrialSpec], measured: Mapping[str, float | None], best: BestRun) -> list[str]:
    """What two trainings say of sparsity, beside what was predicted; nothing unless both ended."""
    losses = {kind: measured.get(spec.trial_id) for kind, spec in specs.items()}
    dense, sparse, said = losses.get("dense"), losses.get("sparse"), best.difference
    if dense is None or sparse is None or said is None:
        return []
    return [
        f"dense minus sparse: predicted {said.value:.3f} [{said.low:.3f}, {said.high:.3f}] for the mean over seeds, "
        f"measured {dense - sparse:.3f} nats (one training of each)"
    ]
