"""The verbs that answer: `optimum` (what to train), `design` (which trials next), `report`.

A table with settings, or one that carries no law, is answered by the smooth model of all its rows
(`answer.settings`); any other by the laws that were cross-validated, averaged, unless a law is
asked for by name. Each verb prints
the same warnings of table, fit and place.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from analysis.answer.costs import EXECUTED, Cost, measured_cost
from analysis.answer.design import TARGETS, Design, candidates_in, design
from analysis.answer.ensemble import Ensemble, ensemble
from analysis.answer.envelope import tuned_points
from analysis.answer.optimum import Box
from analysis.answer.recommend import Recommendation, recommend
from analysis.answer.settings import answer, data_box, own_cost
from analysis.answer.surrogate import LEAST_ROWS, wide_surrogate
from analysis.answer.warnings import of_distance, of_fit, of_laws
from analysis.beside import second
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit import fit
from analysis.fit.intervals import Draws, bootstrap
from analysis.fit.joint import LARGE
from analysis.fit.select import candidates, nearest_law, pick
from analysis.laws import named
from analysis.show.best import lines as best_lines
from analysis.show.report import write_runs_report
from analysis.verbs.common import law_of, out, require_numbers, runs_of, runs_without_settings
from raysparse.units import count, interval_text

DRAWS = 100  # of every law of the average at most
DESIGN_DRAWS = 400  # a design reads correlations, which few draws give by chance
ASKED = ("active", "density", "epochs", "tokens")


class NoLawError(ValueError):
    """Too few rows for any law."""


def _cost(options: Namespace, runs: Runs) -> Cost:
    if options.cost == "seconds":
        return measured_cost(runs)
    if options.cost == "executed" and np.isfinite(runs.extras.get("flops_executed", np.array([]))).sum() >= 3:
        return measured_cost(runs, "flops_executed")  # what the kernels really computed, where the table says so
    return EXECUTED if options.cost == "executed" else own_cost(runs)


def _box(options: Namespace, box: Box) -> Box:
    return replace(box, **{name: getattr(options, name) for name in ASKED if getattr(options, name)})


def _laws(options: Namespace, runs: Runs) -> tuple[Draws, Ensemble | None]:
    """The law that is explained with its draws, and the average of laws unless one was named."""
    if options.law != "auto":
        fitted = fit(named(options.law), runs, delta=options.delta, seed=options.seed)
        return bootstrap(fitted, options.bootstraps, options.seed), None
    tried = candidates(runs, options.seed, options.delta)
    chosen = pick(tried)
    if chosen is None or chosen.fit is None:
        raise NoLawError(f"the table carries no law; {nearest_law(tried)}")
    if len(runs) > LARGE:
        fitted = fit(chosen.law, runs, delta=options.delta, seed=options.seed)
        return bootstrap(fitted, options.bootstraps, options.seed), None
    laws = ensemble(tried, min(options.bootstraps, DRAWS), options.seed)
    return bootstrap(chosen.fit, options.bootstraps, options.seed), laws


def _asked(options: Namespace) -> Runs:
    """The table of a question that can be asked."""
    if options.unique is None and options.epochs:
        raise ValueError(
            "--epochs limits nothing where any number of unique tokens is there: every run is one epoch; give --unique"
        )
    return runs_of(options)


def optimum_table(options: Namespace) -> str:
    """`optimum`: the run to train under a budget."""
    runs, unique = _asked(options), options.unique
    by_model = options.law == "auto" and unique is not None and len(runs) >= LEAST_ROWS
    if runs.settings and by_model:
        return _optimum_by_model(options, runs)
    points = (
        tuned_points(wide_surrogate(runs, seed=options.seed)) if runs.settings and len(runs) >= LEAST_ROWS else runs
    )
    try:
        draws, laws = _laws(options, points)
    except NoLawError:
        if not by_model:
            raise
        return _optimum_by_model(options, runs)
    cost, box = _cost(options, runs), _box(options, Box.of(points))
    item = recommend(draws.fit, draws, options.budget, unique, box, cost, laws, measured=runs)
    if not np.isfinite(item.loss.value):
        raise ValueError(f"budget {item.budget:.3g} {cost.unit}: {'; '.join(item.flags)}; raise it or widen the box")
    require_numbers(
        "the optimum", active=item.active.value, density=item.density.value, tokens=item.tokens, loss=item.loss.value
    )
    warnings = (*item.flags, *of_laws(laws), *of_fit(runs, draws.fit, draws))
    weights = {} if laws is None else {f.law.name: w for f, w in zip(laws.fits, laws.weights[0], strict=True) if w > 0}
    value = {"law": draws.fit.law.name, "laws": weights, "cost": asdict(cost), "box": asdict(box), **asdict(item)}
    value["warnings"] = warnings
    lines = _optimum_lines(item, draws, weights, cost)
    return out(options, value, [*lines, *(f"! {warning}" for warning in warnings)], runs)


def _optimum_by_model(options: Namespace, runs: Runs) -> str:
    """`optimum` of a table with settings, or one that carries no law."""
    box, unique = _box(options, data_box(runs)), float(options.unique)
    found = answer(runs, budget=options.budget, unique=unique, cost=_cost(options, runs), box=box, seed=options.seed)
    best = found.best
    require_numbers("the optimum", active=best.active.value, density=best.density.value, loss=best.loss.value)
    found = replace(found, warnings=(*found.warnings, *of_distance(runs, best.point(unique))))
    return out(options, asdict(found), best_lines(found), runs)


def _optimum_lines(item: Recommendation, draws: Draws, weights: dict[str, float], cost: Cost) -> list[str]:
    by = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items()) or draws.fit.law.name
    unique = "any (one epoch)" if item.unique is None else count(item.unique)
    lines = [f"budget {item.budget:.4g} {cost.unit} ({cost.name}), U = {unique}; by {by}"]
    for name in ("active", "density", "epochs", "loss", "dense_loss", "saving"):
        value = getattr(item, name)
        known = f"{value.value:<11.5g} {interval_text(value.low, value.high)}"
        unknown = "unknown: no dense run fits the box and the budget" if name == "dense_loss" else "unknown"
        lines.append(f"  {name:12} {unknown if np.isnan(value.value) else known}")
    lines.append(f"  {'tokens':12} {item.tokens:<11.5g} at a cost of {item.cost:.4g} {cost.unit}")
    lines += [f"  d = {density:<8.4g} costs {loss - item.loss.value:+.5f} nats" for density, loss in item.by_density]
    for row in item.rows:
        place = f"N = {count(row.active)}, d = {row.density:.3g}, {row.epochs:.3g} epochs"
        lines.append(f"  measured: {row.row}, {place}, loss {row.loss:.4f}, {row.cost:.3g} {cost.unit}")
    return lines


def design_table(options: Namespace) -> str:
    """`design`: the next trials for an aim, per cost."""
    runs = runs_without_settings(options)
    fitted = fit(law_of(options, runs), runs, delta=options.delta, seed=options.seed)
    draws = bootstrap(fitted, max(options.bootstraps, DESIGN_DRAWS), options.seed)
    cost, box, unique = _cost(options, runs), _box(options, Box.of(runs)), options.unique
    region = None if options.target is None else _points(options, options.target)
    if options.candidates is not None:
        points = _points(options, options.candidates)
    else:
        uniques = np.unique(runs.points.unique).tolist()
        points = candidates_in(box, uniques, cost=cost, most=options.most, tokens=options.tokens)
    chosen = design(
        draws, points, options.trials, budget=options.budget, unique=unique, box=box, cost=cost, limit=options.limit,
        aim=options.aim if region is None else "region", region=region,
    )  # fmt: skip
    require_numbers("the design", value=chosen.value, sd=chosen.sd[0])
    warnings = (*of_fit(runs, fitted, draws), *(() if region is None else of_distance(runs, region)))
    trials = chosen.plan()
    value = {"law": fitted.law.name, "target": chosen.target, "sd_before": chosen.sd[0], "trials": trials}
    value["warnings"] = warnings
    lines = [*_design_lines(chosen, fitted.law.name, options.budget), *(f"! {warning}" for warning in warnings)]
    return out(options, value, lines, runs)


def _points(options: Namespace, path: Any) -> Points:
    """The points of another table; its losses are not looked at, and may be missing."""
    return read_table(path, {**options.columns}, options.count, loss=False, units=options.units).points


def _design_lines(chosen: Design, law: str, budget: float) -> list[str]:
    what = TARGETS[chosen.target]
    sd = "sd" if what.startswith("ln ") else "sd of its logarithm"
    lines = [
        f"pins down {what}, by {law}, at {budget:.3g} {chosen.unit}: {chosen.value:.4g}, {sd} now {chosen.sd[0]:.4g}"
    ]
    for trial in chosen.plan():
        lines.append(
            f"  N {count(trial['active']):>7}  d {trial['density']:<6.3g} U {count(trial['unique_tokens']):>6}  "
            f"epochs {trial['epochs']:<6.3g} cost {trial['cost']:.3g} {trial['unit']}  -> sd "
            f"{trial['expected_sd_after']:.4g}"
        )
    return lines if len(chosen.rows) else [*lines, "  no candidate helps within the limit"]


def report_table(options: Namespace) -> str:
    """`report`: the summary, the page and the pictures."""
    with second() as beside:
        report = write_runs_report(
            runs_of(options),
            options.output,
            title=options.title,
            law=None if options.law == "auto" else named(options.law),
            budgets=options.budgets,
            delta=options.delta,
            seed=options.seed,
            bootstraps=options.bootstraps,
            vector=options.svg,
            beside=beside,
        )
    written = "written: " + ", ".join(str(path) for path in report.paths)
    return out(options, report.numbers, [report.summary, "", written])
