"""A plan as text for people: what will be run, and what it costs in work, memory, time and money.

A plan of any length is shown as one line per size and density, because a cost is a question about a
family of trials; the single trials are in plan.json. Left out: where a sweep stands (`status`), the
live view (`progress`) and the answer (`analysis`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from raysparse import counts, ladder, memory
from raysparse.placement import Placement
from raysparse.spec import TrialSpec
from raysparse.sweep.budget import UNIT_NAMES
from raysparse.sweep.plan import Cost, Plan
from raysparse.units import amount, count, duration, si


def plan_table(plan: Plan, *, slots: int, hourly: float = 0.0) -> RenderableType:
    """The plan and its cost; `slots` trials run at once, and a worker's machine or GPU costs
    `hourly` money.
    """
    asked = plan.planner.question() if plan.planner is not None else ()
    if not plan.specs:
        limit, unit = plan.budget.total, UNIT_NAMES[plan.budget.unit]
        return Group(*asked, "There is no budget." if limit is None else f"The budget is {amount(limit)} {unit}.")
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("size", no_wrap=True)
    for column in ("density", "trials", "weights", "tokens", "active", "executed", "memory", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    groups: dict[tuple[str, float], list[TrialSpec]] = {}
    for spec in plan.specs:
        groups.setdefault((spec.model.name, spec.sparsity.density), []).append(spec)
    total = Cost()
    for (size, density), specs in groups.items():
        weights, cost = count(counts.parameters(specs[0].model, specs[0].sparsity).active), plan.total(specs)
        table.add_row(size, f"{density:g}", str(len(specs)), weights, *_cost_cells(cost))
        total += cost
    table.add_row("all", "", str(total.trials), "", *_cost_cells(total))
    return Group(*_axes(plan), *asked, "", table, "", *_notes(plan, total, slots), *_money(plan, total, hourly))


def _axes(plan: Plan) -> list[str]:
    """What the trials have in common and where they differ, a line each."""
    specs = plan.specs
    axes: dict[str, set[str] | set[int] | set[float]] = {
        "corpus": {f"{s.data.corpus}, tokenizer {s.data.tokenizer}, context {s.model.context}" for s in specs},
        "methods": {str(s.sparsity.method) for s in specs},
        "unique tokens": {s.data.unique_tokens for s in specs},
        "epochs": {s.data.epochs for s in specs},
        "seeds": {s.seed for s in specs},
    }
    return [f"{len(specs)} trials"] + [f"  {name + ':':<15}{_listed(sorted(values))}" for name, values in axes.items()]


def _listed(values: list[Any], most: int = 8) -> str:
    """The values, or the first, the last and how many."""
    said = [v if isinstance(v, str) else f"{v:,.5g}" for v in values]
    return ", ".join(said) if len(said) <= most else f"{said[0]} to {said[-1]} ({len(said)} values)"


def _cost_cells(cost: Cost) -> list[str]:
    return [
        count(cost.tokens), amount(cost.flops_active), amount(cost.flops_executed),
        si(cost.peak_bytes, "B"), duration(cost.device_seconds),
    ]  # fmt: skip


def _notes(plan: Plan, total: Cost, slots: int) -> list[str]:
    speed = f"{si(plan.throughput.flops_per_second, 'FLOP/s')} and {plan.throughput.seconds_per_step * 1e3:g} ms a step"
    wall = total.device_seconds / plan.placement.workers / slots
    notes = [
        *_passes(plan),
        f"About {duration(wall)} with {slots} at a time, at {speed} ({plan.throughput.source}).",
        "weights, active, executed: active weights, FLOPs of the active weights, FLOPs really computed. Time is "
        "device time.",
    ]
    if plan.budget.total is not None or plan.budget.per_trial is not None:
        fits = plan.affordable(dict.fromkeys(plan.specs, 0), plan.budget.limit)
        limits = [("in all", plan.budget.total), ("a trial", plan.budget.per_trial)]
        said = " and ".join(
            f"{amount(limit)} {UNIT_NAMES[plan.budget.unit]} {where}" for where, limit in limits if limit is not None
        )
        cheapest = "" if len(fits) == len(plan.specs) else ", the cheapest ones"
        notes.append(f"The budget of {said} holds {len(fits)} of the {len(plan.specs)} trials{cheapest}.")
        if plan.planner is not None:
            notes.append("The planner spends what these leave of it, so it will take longer than they do.")
    if any(not ladder.has_own_rate(spec.model) for spec in plan.specs):
        names = sorted({spec.model.name for spec in plan.specs if not ladder.has_own_rate(spec.model)})
        notes.append(f"No rate is published for {', '.join(names)}: 0.0226 / sqrt(hidden) unless one is given.")
    return notes


def _money(plan: Plan, total: Cost, hourly: float) -> list[str]:
    """What the trials cost, if a price is known; a planner's, when it has spent its budget. Time in
    which machines start or wait is not in it.
    """
    if not hourly:
        return []
    price = total.device_seconds / 3600 * hourly * plan.placement.device_share
    said = f"About {price:,.2f} in money at {hourly:g} an hour"
    planned = math.fsum(map(plan.price, plan.specs))
    if plan.planner is not None and plan.budget.total is not None and planned:
        said += f", {price * plan.budget.total / planned:,.2f} when the planner has spent the budget"
    return [f"{said}."]


def memory_table(spec: TrialSpec, placement: Placement, measured: dict[str, int] | None = None) -> RenderableType:
    """Bytes of one worker by kind, predicted and, where a model was built, measured; dense training
    of the same model, placed alike, beside it. The batch is one forward pass.
    """
    method = spec.sparsity.replace(method="dense", density=1.0)
    predicted, dense = (
        dataclasses.asdict(memory.predicted(s, placement)) for s in (spec, spec.replace(sparsity=method))
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ["bytes", "predicted", *(["measured"] if measured else []), "dense"]
    for n, column in enumerate(columns):
        table.add_column(column, justify="right" if n else "left")
    for kind, size in predicted.items():
        cells = [
            count(size),
            *([count(measured[kind]) if kind in measured else "-"] if measured else []),
            count(dense[kind]),
        ]
        table.add_row(kind, *cells)
    table.add_row("all", count(sum(predicted.values())), *([""] if measured else []), count(sum(dense.values())))
    params = counts.parameters(spec.model, spec.sparsity)
    active = f"{count(params.active)} of {count(params.total)} weights are active"
    sequences = f"{spec.optimizer.batch_sequences} sequences of {spec.model.context} tokens"
    return Group(table, "", f"{active}; {sequences} in a forward pass{_made_again(placement)}.")


def _made_again(placement: Placement) -> str:
    """What a backward pass makes again, in words."""
    return {"mlp": ", MLPs made again", "layer": ", layers made again"}.get(placement.recompute, "")


def _passes(plan: Plan) -> list[str]:
    """How batches are cut where that was said or is a GPU's, a line for each size."""
    place = plan.placement
    if place.device == "cpu" and not place.micro_batch and place.recompute == "auto":
        return []
    found: dict[str, dict[str, None]] = {}
    for spec in plan.specs:
        fitted, whole = plan.fitted(spec), memory.worker_share(spec, place)
        said = f"{min(fitted.micro_batch or whole, whole)} of {whole} sequences{_made_again(fitted)}"
        if place.device != "cpu" and not plan.device_bytes and not place.micro_batch:
            said = "as many sequences as the worker's card holds"
        elif plan.device_bytes and not memory.fits(spec, fitted, plan.device_bytes):
            said += f": does not fit {si(plan.device_bytes * place.device_share, 'B')}"
        found.setdefault(said, {})[spec.model.name] = None
    return [f"Micro-batch of {', '.join(names)}: {said}." for said, names in found.items()]
