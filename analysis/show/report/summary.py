"""A study in words and numbers: the terminal summary and report.json.

The summary leads with the answer and puts its warnings right below it; a number that lies on an
edge, outside the data or on few rows is never printed without saying so. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.answer.costs import Cost
from analysis.answer.recommend import Interval, Recommendation
from analysis.answer.study import Study
from raysparse.units import count


def summary(study: Study, title: str, first: Sequence[str] = ()) -> str:
    """Plain text. The answer leads, then warnings, then what it rests on. first: lines of an answer
    of the smooth model, which then leads; a law describes the points at their best settings.
    """
    lines = [title, "=" * len(title), *first]
    if study.fit is None:
        lines += [
            "",
            "No law of these rows:" if first else "No recommendation by a law:",
            *(f"  - {warning}" for warning in study.warnings),
        ]
        return "\n".join([*lines, "", _table(study), *_tail(study)])
    if not first:
        for recommendation in reversed(study.recommendations):
            lines += _recommendation(recommendation, study.cost.unit)
        lines += _settling(study)
    lines += ["", "Warnings:", *(f"  - {warning}" for warning in study.warnings or ("none found",))]
    fitted = study.fit
    about = "The law of the points, each at its own best settings as the model of all rows expects them:"
    lines += [
        "",
        about if study.tuned else "What it rests on:",
        _table(study),
        f"law: {fitted.law.name} ({len(fitted.law.names)} parameters), {fitted.law.about}",
        f"     {fitted.law.formula}",
        f"     fit RMSE {fitted.rmse:.4f}, cross-validated {study.rmse:.4f} nats/token, R2 {fitted.r2:.4f}",
        f"     {_why(study)}",
        *_weights(study),
        *_fresh(study),
    ]
    return "\n".join([*lines, *_tail(study)])


def _table(study: Study) -> str:
    runs = study.table
    at = f" at {len(study.runs)} points" if study.tuned else ""
    return (
        f"{len(runs)} usable runs{at}, {len(runs.excluded)} excluded; N is {runs.count}, budgets are {study.cost.words}"
    )


def _tail(study: Study) -> list[str]:
    return [*_exclusions(study), *(f"note: {text}" for text in study.runs.notes)]


def _settling(study: Study) -> list[str]:
    """The trials that would tell dense from sparse, where no difference is shown."""
    found = study.settle
    if found is None:
        return []
    if not len(found.rows):
        return ["what would settle sparsity: no trial inside the searched box at this budget helps; widen it"]
    loss = study.recommendations[-1].loss.value
    before, after = (1.96 * loss * found.sd[i] for i in (0, -1))
    trials = len(found.rows)
    lines = [
        f"what would settle sparsity: these {trials} trials, {found.cost.sum():.3g} {found.unit}, would bring dense "
        f"minus sparse from ±{before:.3f} to ±{after:.3f} nats, if the law holds"
    ]
    return lines + [
        f"  N {count(t['active'])}, d {t['density']:.3g}, U {count(t['unique_tokens'])}, {t['epochs']:.3g} epochs, "
        f"{t['cost']:.3g} {t['unit']}"
        for t in found.plan()
    ]


def _why(study: Study) -> str:
    tried = [candidate for candidate in study.tried if candidate.fit is not None]
    if not tried or study.fit is None:
        return "chosen by the caller"
    text = f"chosen by cross-validation among {len(tried)} laws that the table can carry"
    names = [candidate.law.name for candidate in study.tried]
    richer = [c for c in study.tried[: names.index(study.fit.law.name)] if c.lacking]
    return text + (f"; {richer[0].law.name} cannot be carried ({'; '.join(richer[0].lacking)})" if richer else "")


def _weights(study: Study) -> list[str]:
    if study.laws is None:
        return []
    pairs = sorted(zip(study.laws.weights[0], study.laws.fits, strict=True), key=lambda pair: -pair[0])
    told = ", ".join(f"{fit.law.name} {weight:.2f}" for weight, fit in pairs if weight > 0)
    return [f"answers by {told}, and a smooth rest inside the data"]


def _fresh(study: Study) -> list[str]:
    """The best size along compute of a table of one epoch, by three approaches."""
    found = study.fresh
    if found is None:
        return []
    grows = f"the best dense size grows as C^a, the tokens as C^({_rest(study.cost)})"
    lines = [f"{grows}; a by approach (Hoffmann et al. 2022):"]
    for road in found.roads:
        told = road.note if road.a is None else f"{_range(road.a)} ({road.note})"
        lines.append(f"  {road.name}: {told}")
    for place in (0, len(found.budgets) // 2, -1):
        size, tokens = (
            _count_range(Interval.of(values[:, place], found.draws)) for values in (found.active, found.tokens)
        )
        lines.append(f"  C = {found.budgets[place]:.2g} {study.cost.unit}: N_opt {size}, D_opt {tokens}")
    return lines


def _rest(cost: Cost) -> str:
    """The power of C that is left to the tokens where the size takes a."""
    size, tokens = (f"{power:.3g}" for power in (cost.size, cost.tokens))
    rest = "1 - a" if size == "1" else f"1 - {size} a"
    return rest if tokens == "1" else f"({rest}) / {tokens}"


def _recommendation(item: Recommendation, unit: str) -> list[str]:
    unique = f"{count(item.unique)} unique tokens" if item.unique else "any number of unique tokens"
    lines = [f"With {item.budget:.3g} {unit} and {unique}:"]
    if item.loss.value != item.loss.value:
        return [*lines, f"  no answer: {'; '.join(item.flags)}"]
    lines.append(
        f"  train N = {_count_range(item.active)} active parameters at density {_range(item.density)}, "
        f"{_range(item.epochs)} epochs, {count(item.tokens)} tokens"
    )
    lines.append(f"  {_saving(item)}")
    compared = item.saving.value == item.saving.value
    lines.append(
        f"  loss {_range(item.loss, 4)} at a cost of {item.cost:.3g} {unit}"
        + (f"; dense at its own best {_range(item.dense_loss, 4)}" if compared else "")
        + f"; the law below alone says {item.law_loss:.4f}"
    )
    if item.cheaper is not None and item.cheaper.cost < item.cost / 1.1:
        equal = item.cheaper
        lines.append(
            f"  as good for {equal.cost:.3g} {unit}: N = {count(equal.active)}, d = {equal.density:.3g}, "
            f"{equal.epochs:.3g} epochs, loss {equal.loss:.4f}"
        )
    measured = [
        f"  measured: {row.row}, N = {count(row.active)}, d = {row.density:.3g}, {row.epochs:.3g} epochs, "
        f"loss {row.loss:.4f}, {row.cost:.3g} {unit}"
        for row in item.rows
    ]
    lines = lines[:1] + measured + lines[1:] if item.beaten else lines + measured
    choices = ", ".join(f"d = {density:.3g}: {loss - item.loss.value:+.4f}" for density, loss in item.by_density)
    lines += [f"  cost of another density, nats: {choices}"] if len(item.by_density) > 1 else []
    return lines + [f"  ! {flag}" for flag in item.flags]


def _saving(item: Recommendation) -> str:
    if item.saving.value != item.saving.value:
        return "sparsity: not compared, only one of dense and sparse is there"
    if not item.shown:
        return f"sparsity: no difference shown (a saving of {_range(item.saving, 2)}x)"
    if item.saving.high < 1:
        more = Interval(1 / item.saving.value, 1 / item.saving.high, 1 / item.saving.low)
        return f"sparsity: {_range(more, 2)}x more compute than dense at its own best"
    return f"sparsity: {_range(item.saving, 2)}x less compute than dense at its own best"


def _count_range(item: Interval) -> str:
    return f"{count(item.value)} [{count(item.low)}, {count(item.high)}]"


def _range(item: Interval, digits: int = 3) -> str:
    return f"{item.value:.{digits}g} [{item.low:.{digits}g}, {item.high:.{digits}g}]"


def _exclusions(study: Study, most: int = 8) -> list[str]:
    excluded = study.runs.excluded
    if not excluded:
        return []
    lines = ["", "Excluded rows:", *(f"  - {row.row}: {row.reason}" for row in excluded[:most])]
    return lines + ([f"  - and {len(excluded) - most} more, all in report.json"] if len(excluded) > most else [])


def numbers(study: Study, title: str) -> dict[str, Any]:
    """Everything in the summary and the pictures' bands, for programs."""
    fitted, draws = study.fit, study.draws
    return {
        "title": title,
        "rows": len(study.table),
        "fitted_to": len(study.runs),
        "count": study.runs.count,
        "notes": study.runs.notes,
        "excluded": [{"row": row.row, "reason": row.reason} for row in study.runs.excluded],
        "cost": {"name": study.cost.name, "unit": study.cost.unit},
        "law": None
        if fitted is None or draws is None
        else {
            "name": fitted.law.name,
            "formula": fitted.law.formula,
            "parameters": fitted.parameters,
            "intervals_95": draws.parameter_intervals(),
            "objective": fitted.objective,
            "delta": fitted.delta,
            "rmse": fitted.rmse,
            "cross_validated_rmse": study.rmse,
            "r2": fitted.r2,
            "minima": [minimum.objective for minimum in fitted.minima],
            "bootstraps": len(draws.theta),
        },
        "tried": [
            {
                "law": c.law.name,
                "lacking": c.lacking,
                "unsuited": c.unsuited,
                "cross_validated_rmse": c.rmse,
                "standard_error": c.error,
            }
            for c in study.tried
        ],
        "hold_outs": None
        if study.comparison is None
        else {
            "chosen": study.comparison.chosen,
            "why": study.comparison.why,
            "scores": study.comparison.scores,
            "trials": [vars(trial) for trial in study.comparison.trials],
        },
        "recommendations": [_recommended(item) for item in study.recommendations],
        "curves": [
            {
                "unique": curve.unique,
                "budgets": curve.budgets,
                "active": curve.active[0],
                "density": curve.density[0],
                "epochs": curve.epochs[0],
            }
            for curve in study.curves
        ],
        "fresh": _fresh_numbers(study),
        "settle": None if study.settle is None else {"sd": study.settle.sd, "trials": study.settle.plan()},
        "warnings": study.warnings,
    }


def _fresh_numbers(study: Study) -> dict[str, Any] | None:
    found = study.fresh
    if found is None:
        return None
    roads = [{"name": r.name, "a": None if r.a is None else vars(r.a), "note": r.note} for r in found.roads]
    return {
        "law": found.law,
        "approaches": roads,
        "budgets": found.budgets,
        "active": found.active[0],
        "tokens": found.tokens[0],
    }


def _recommended(item: Recommendation) -> dict[str, Any]:
    intervals = {
        name: vars(getattr(item, name)) for name in ("active", "density", "epochs", "loss", "dense_loss", "saving")
    }
    return {
        "budget": item.budget,
        "unique": item.unique,
        **intervals,
        "by_density": item.by_density,
        "cost": item.cost,
        "measured": [vars(row) for row in item.rows],
        "cheaper": None if item.cheaper is None else vars(item.cheaper),
        "law_loss": item.law_loss,
        "saving_shown": item.shown,
        "flags": item.flags,
    }
