"""The way back: what `analysis` recommends, as a trial that can be trained.

The answer names active weights, density, epochs and settings; everything else (data, context,
batch, method, precision) is what the nearest measured run had. The model is the one of about that
many active weights (`ladder.shape_near`), and the epochs are cut to the budget where its exact
FLOPs would exceed it. Left out: making the answer (`analysis.answer.settings`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raysparse import counts, ladder
from raysparse.results import spec_columns
from raysparse.spec import TrialSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from analysis.answer.choice import BestRun, Choice


def answer_of(
    table: pa.Table, *, trained: pa.Table | None = None, budget: float | None = None, unique_tokens: float | None = None
) -> BestRun:
    """The best run for a budget of active FLOPs and unique tokens, from a sweep's own table and the
    rows of what was `trained` from its answers.

    Default: the dearest run over the most unique tokens that the table has, and those tokens.
    Raises ValueError when the table has too few usable rows for a recommendation, or the budget is
    no positive number.
    """
    import pyarrow as pa

    from analysis.answer.settings import answer
    from analysis.data.table import read_table

    runs = read_table(table)
    unique = float(unique_tokens or runs.points.unique.max())
    spent = runs.extras["flops_active"][runs.points.unique == unique]
    if budget is not None and not (np.isfinite(budget) and budget > 0):
        raise ValueError(f"--budget is {budget:g}, expected a positive number of active FLOPs")
    if budget is None and not len(spent):
        raise ValueError(f"no run in the table has {unique:.6g} unique tokens; say --budget, in active FLOPs")
    if trained is not None and len(trained):
        runs = read_table(pa.concat_tables([table, trained]))
    return answer(runs, budget=budget or float(spent.max()), unique=unique)


def trial_of(choice: Choice, rows: Sequence[Mapping[str, Any]], best: BestRun, *, seed: int = 0) -> TrialSpec:
    """The trial of a choice of `best`; `rows` of the table give what the choice leaves open."""
    density = choice.density.value
    is_dense = density == 1.0
    base = _nearest(rows, best, is_dense)
    active, path_of = choice.active.value, {column: path for column, (path, _) in spec_columns().items()}
    model = ladder.shape_near(active, density, vocab_size=base.model.vocab_size, context=base.model.context)
    own_rate = base.optimizer.lr == ladder.dense_lr(base.model)
    spec = base.replace(
        model=model,
        sparsity=base.sparsity.replace(density=density),
        data=base.data.replace(unique_tokens=round(best.unique), epochs=choice.epochs.value),
        optimizer=base.optimizer.replace(lr=ladder.dense_lr(model) if own_rate else base.optimizer.lr),
        seed=seed,
        name="",
    )
    for column, interval in choice.settings.items():
        spec = spec.with_field(path_of[column], _as_tried(rows, column, interval.value))
    most = counts.epochs_for(spec, best.budget)
    if counts.flops(spec)[0] > best.budget:
        spec = spec.replace(data=spec.data.replace(epochs=most))
    if counts.flops(spec)[0] > best.budget:  # whole steps came out above it: one less
        one = spec.optimizer.batch_sequences / spec.unique_sequences
        spec = spec.replace(data=spec.data.replace(epochs=most - one))
    kind = "dense" if is_dense else f"d={density:.3g}"
    return spec.replace(name=f"{model.name} {kind} U={spec.data.unique_tokens} x{spec.data.epochs:.3g}, recommended")


def _as_tried(rows: Sequence[Mapping[str, Any]], column: str, value: float) -> float:
    """The value of a setting, whole where its field is, and none beyond those that were tried."""
    tried = {row[column] for row in rows if row[column] is not None}
    if any(type(one) is not int for one in tried):
        return value
    return int(np.clip(round(value), min(tried), max(tried)))


def _nearest(rows: Sequence[Mapping[str, Any]], best: BestRun, is_dense: bool) -> TrialSpec:
    """The spec of the best completed run of this kind over the same unique tokens, else of any."""
    done = [row for row in rows if row["status"] == "completed" and (row["density"] == 1.0) == is_dense]
    same = [row for row in done if row["unique_tokens"] == best.unique] or done
    row = min(same, key=lambda row: (row["validation_loss"], row["trial_id"]))
    return TrialSpec.from_dict(json.loads(row["spec"]))
