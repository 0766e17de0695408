"""A study in words and numbers: the terminal summary and report.json.

The summary leads with the answer and puts its caveats right below it; a number that lies on an
edge, outside the data or on few rows is never printed without saying so. Nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.answer.recommend import Interval, Recommendation
from analysis.answer.study import Study
from raysparse.units import count


def summary(study: Study, title: str, first: Sequence[str] = ()) -> str:
    """Plain text, under 100 columns where the ids allow. first: lines of an answer with settings,
    which then leads, and the law describes the points at their best settings.
    """
    lines = [title, "=" * len(title), *first]
    runs = study.runs
    if first:
        lines += ["", "The law of the points, each at its own best settings as the model of all rows expects them:"]
    lines.append(
        f"{len(runs)} usable runs, {len(runs.excluded)} excluded; N is {runs.count}, "
        f"budgets are {study.cost.name} {study.cost.unit}"
    )
    if study.fit is None:
        lines += ["", "No recommendation:", *(f"  - {caution}" for caution in study.cautions)]
    else:
        fitted = study.fit
        lines += [
            f"law: {fitted.law.name} ({len(fitted.law.names)} parameters), {fitted.law.about}",
            f"     {fitted.law.formula}",
            f"     fit RMSE {fitted.rmse:.4f}, cross-validated {study.rmse:.4f} nats/token, R2 {fitted.r2:.4f}",
            f"     {_why(study)}",
            *_weights(study),
            *_exponent(study),
            "",
        ]
        for recommendation in () if first else study.recommendations:
            lines += _recommendation(recommendation, study.cost.unit)
        lines += ["", "Caveats:", *(f"  - {caution}" for caution in study.cautions or ("none found",))]
    lines += _exclusions(study)
    lines += [f"note: {text}" for text in runs.notes]
    return "\n".join(lines)


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


def _exponent(study: Study) -> list[str]:
    if study.exponent is None:
        return []
    return [f"the best size grows as C^a, a = {_range(study.exponent.value)} ({study.exponent.law}; tied laws say .5)"]


def _recommendation(item: Recommendation, unit: str) -> list[str]:
    unique = f"{count(item.unique)} unique tokens" if item.unique else "any number of unique tokens"
    lines = [f"With {item.budget:.3g} {unit} and {unique}:"]
    if item.loss.value != item.loss.value:
        return [*lines, f"  no answer: {'; '.join(item.flags)}"]
    sparsity = Interval(1 - item.density.value, 1 - item.density.high, 1 - item.density.low)
    lines.append(
        f"  train N = {count(item.active.value)} active parameters at density {_range(item.density)} "
        f"(sparsity {sparsity.value:.2f}) for {_range(item.epochs)} epochs"
    )
    lines.append(
        f"  loss {_range(item.loss, 4)} at a cost of {item.cost:.3g} {unit}"
        + (f"; dense at its own best {_range(item.dense_loss, 4)}" if item.dense_loss.value > 0 else "")
    )
    lines.append(f"  {_saving(item)}; the law above alone says {item.law_loss:.4f}")
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
    lines.append(f"  cost of another density, nats: {choices}")
    return lines + [f"  ! {flag}" for flag in item.flags]


def _saving(item: Recommendation) -> str:
    if item.saving.value != item.saving.value:
        return "saving by sparsity: not compared, only one of dense and sparse is there"
    if not item.shown:
        return f"saving by sparsity: none shown ({_range(item.saving, 2)}x)"
    return f"sparsity needs {_range(item.saving, 2)}x less compute than dense at its own best"


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
        "rows": len(study.runs),
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
            {"unique": curve.unique, "budgets": curve.budgets, "density": curve.density[0], "epochs": curve.epochs[0]}
            for curve in study.curves
        ],
        "exponent": None if study.exponent is None else {"law": study.exponent.law, "a": vars(study.exponent.value)},
        "cautions": study.cautions,
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
