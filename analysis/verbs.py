"""What each verb of the command line does: parsed options in, text (or JSON) out.

Separate from `cli`, which only declares options, so that either can be read in one go. Calls the
package's public functions and formats their values.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from analysis.answer.compare import compare
from analysis.answer.costs import COSTS, Cost, measured_cost
from analysis.answer.design import candidates_in, design
from analysis.answer.optimum import Box
from analysis.answer.recommend import recommend
from analysis.answer.study import analyse
from analysis.data.files import dumps
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit import fit
from analysis.fit.flags import fit_flags
from analysis.fit.intervals import bootstrap
from analysis.fit.joint import Fit
from analysis.fit.profile import profile
from analysis.fit.select import choose_law
from analysis.fit.sensitivity import LEAST_SQUARES, sensitivity
from analysis.fit.staged import staged
from analysis.laws import Law, named, published_vector
from raysparse.units import count, interval_text

Verb = Callable[[Namespace], str]


def _runs(options: Namespace) -> Runs:
    return read_table(options.table, options.columns, options.count, options.method)


def _law(options: Namespace, runs: Runs) -> Law:
    return choose_law(runs, options.seed, options.delta) if options.law == "auto" else named(options.law)


def _out(options: Namespace, value: dict[str, Any], lines: list[str]) -> str:
    return dumps(value) if options.json else "\n".join(lines)


def _notes(runs: Runs) -> list[str]:
    excluded = [f"excluded {row.row}: {row.reason}" for row in runs.excluded[:10]]
    more = [f"... and {len(runs.excluded) - 10} more excluded"] if len(runs.excluded) > 10 else []
    return [*excluded, *more, *(f"note: {note}" for note in runs.notes)]


def fit_table(options: Namespace) -> str:
    runs = _runs(options)
    law = _law(options, runs)
    fitted = fit(law, runs, fixed=options.fix, delta=options.delta, seed=options.seed)
    draws = bootstrap(fitted, options.bootstraps, options.seed)
    intervals, flags = draws.parameter_intervals(), fit_flags(fitted, draws)
    profiles = {} if not options.profile else {p.name: profile(fitted, p.name) for p in fitted.problem.parameters}
    value: dict[str, Any] = {
        "law": law.name,
        "formula": law.formula,
        "rows": len(runs),
        "objective": fitted.objective,
        "delta": fitted.delta,
        "rmse": fitted.rmse,
        "r2": fitted.r2,
        "parameters": fitted.parameters,
        "bootstrap_95": intervals,
        "profile_95_stored": {name: (p.low, p.high) for name, p in profiles.items()},
        "flags": flags,
        "minima": [{"objective": m.objective, "parameters": _natural(fitted, m.theta)} for m in fitted.minima],
        "excluded": [asdict(row) for row in runs.excluded],
        "notes": runs.notes,
    }
    lines = [
        f"{law.name}: {law.formula}",
        f"{len(runs)} runs, objective {fitted.objective:.12g} (delta {fitted.delta:g}), "
        f"RMSE {fitted.rmse:.5f} nats, R2 {fitted.r2:.5f}",
    ]
    for parameter in law.parameters:
        name = parameter.natural_name
        lines.append(
            f"  {name:6} {fitted.parameters[name]:<12.6g} {interval_text(*intervals[name])}  {parameter.meaning}"
        )
        if parameter.name in profiles:
            p = profiles[parameter.name]
            lines.append(
                f"  {'':6} {'':12} {interval_text(parameter.natural(p.low), parameter.natural(p.high))}  profile"
            )
    lines += [f"minimum {m.objective:.12g}" for m in fitted.minima[1:]]
    if options.staged:
        stages = staged(runs, delta=options.delta, seed=options.seed)
        value["staged"] = {"objectives": [s.objective for s in stages.stages], "parameters": stages.fit.parameters}
        lines += [
            f"stage {i + 1}: {len(s.runs)} rows, objective {s.objective:.10g}" for i, s in enumerate(stages.stages)
        ]
        lines += ["staged: " + ", ".join(f"{name} {number:.5g}" for name, number in stages.fit.parameters.items())]
    if options.deltas:
        others = sensitivity(fitted)
        value["deltas"] = {str(delta): other.parameters for delta, other in others.items()}
        lines += [
            f"delta {'least squares' if delta == LEAST_SQUARES else delta}: "
            + ", ".join(f"{name} {number:.5g}" for name, number in other.parameters.items())
            for delta, other in others.items()
        ]
    return _out(options, value, [*lines, *(f"! {flag}" for flag in flags), *_notes(runs)])


def _natural(fitted: Fit, theta: Any) -> dict[str, float]:
    return {p.natural_name: p.natural(float(v)) for p, v in zip(fitted.law.parameters, theta, strict=True)}


def compare_table(options: Namespace) -> str:
    runs = _runs(options)
    laws = [named(name) for name in options.laws] if options.laws else None
    result = compare(runs, laws, delta=options.delta, draws=min(options.bootstraps, 100), seed=options.seed)
    lines = [f"{'law':28} {'held out by':12} {'rows':>5} {'RMSE':>8} {'bias':>8} {'in 95 %':>8}"]
    for trial in result.trials:
        if trial.lacking:
            lines.append(f"{trial.law:28} {trial.split:12} {trial.held_out:>5} not tried: {'; '.join(trial.lacking)}")
        else:
            lines.append(
                f"{trial.law:28} {trial.split:12} {trial.held_out:>5} {trial.rmse:8.4f} {trial.bias:+8.4f} "
                f"{100 * trial.coverage:7.0f}%"
            )
    value = {
        "trials": [asdict(trial) for trial in result.trials],
        "scores": result.scores,
        "chosen": result.chosen,
        "why": result.why,
    }
    return _out(options, value, [*lines, "", result.why, *_notes(runs)])


def _cost(options: Namespace, runs: Runs) -> Cost:
    if options.cost == "seconds":
        return measured_cost(runs)
    if options.cost == "executed" and np.isfinite(runs.extras.get("flops_executed", np.array([]))).sum() >= 3:
        return measured_cost(runs, "flops_executed")  # what the kernels really computed, where the table says so
    return COSTS[options.cost]


def _box(options: Namespace, runs: Runs) -> Box:
    given = {name: getattr(options, name) for name in ("active", "density", "epochs") if getattr(options, name)}
    return replace(Box.of(runs), **given)


def _unique(options: Namespace) -> float | None:
    if options.unique == "any":
        return None
    try:
        return float(options.unique)
    except ValueError as error:
        raise ValueError(f"--unique is {options.unique!r}; expected a number of tokens, or any") from error


def optimum_table(options: Namespace) -> str:
    runs = _runs(options)
    fitted = fit(_law(options, runs), runs, delta=options.delta, seed=options.seed)
    draws = bootstrap(fitted, options.bootstraps, options.seed)
    cost, box, unique = _cost(options, runs), _box(options, runs), _unique(options)
    item = recommend(fitted, draws, options.budget, unique, box, cost)
    lines = [
        f"law {fitted.law.name}; budget {options.budget:.4g} {cost.unit} ({cost.name}), "
        f"U = {count(unique) if unique else 'any (one epoch)'}"
    ]
    for name in ("active", "density", "epochs", "loss", "dense_loss", "saving"):
        value = getattr(item, name)
        lines.append(f"  {name:12} {value.value:<11.5g} {interval_text(value.low, value.high)}")
    lines += [f"  d = {density:<8.4g} costs {loss - item.loss.value:+.5f} nats" for density, loss in item.by_density]
    value = {"law": fitted.law.name, "cost": asdict(cost), "box": asdict(box), **asdict(item)}
    return _out(
        options, value, [*lines, *(f"! {flag}" for flag in (*item.flags, *fit_flags(fitted, draws))), *_notes(runs)]
    )


def design_table(options: Namespace) -> str:
    runs = _runs(options)
    fitted = fit(_law(options, runs), runs, delta=options.delta, seed=options.seed)
    draws = bootstrap(fitted, max(options.bootstraps, 400), options.seed)
    cost, box, unique = _cost(options, runs), _box(options, runs), _unique(options)
    if options.candidates is not None:
        rows = read_table(options.candidates, {**options.columns}, options.count)
        candidates = rows.points
    else:
        candidates = candidates_in(box, np.unique(runs.points.unique).tolist(), cost=cost, most=options.most)
    chosen = design(
        draws, candidates, options.trials, budget=options.budget, unique=unique, box=box, cost=cost, limit=options.limit
    )
    lines = [f"pins down the {chosen.target} at {options.budget:.3g} {cost.unit}; sd now {chosen.sd[0]:.4g} (ln)"]
    for trial in chosen.plan():
        lines.append(
            f"  N {count(trial['active']):>7}  d {trial['density']:<6.3g} U {count(trial['unique_tokens']):>6}  "
            f"epochs {trial['epochs']:<6.3g} cost {trial['cost']:.3g} {trial['unit']}  -> sd "
            f"{trial['expected_sd_after']:.4g}"
        )
    value = {"law": fitted.law.name, "target": chosen.target, "sd_before": chosen.sd[0], "trials": chosen.plan()}
    return _out(options, value, lines + ([] if len(chosen.rows) else ["  no candidate helps within the limit"]))


def report_table(options: Namespace) -> str:
    from analysis.show.report import write_study
    from analysis.show.report.summary import numbers

    runs = _runs(options)
    law = None if options.law == "auto" else named(options.law)
    study = analyse(
        runs, law=law, budgets=options.budgets, delta=options.delta, seed=options.seed, bootstraps=options.bootstraps
    )
    report = write_study(study, options.output, options.title)
    if options.json:
        return dumps(numbers(study, options.title))
    return report.summary + "\n\nwritten: " + ", ".join(str(path) for path in report.paths)


def simulate_table(options: Namespace) -> str:
    from analysis.answer.simulate import grid, power, simulate, write_runs

    law = named(options.law)
    if options.parameters is None and law.name != "sparse_published":
        raise ValueError(f"give --parameters for law {law.name!r}; only sparse_published has published ones")
    theta = published_vector() if options.parameters is None else law.vector(options.parameters)
    plan = grid(options.sizes, options.densities, options.unique, options.epochs)
    lines = [f"{len(plan)} points, {options.replicates} each"]
    value: dict[str, Any] = {"points": len(plan), "replicates": options.replicates}
    if options.output is not None:
        runs = simulate(law, theta, plan, noise=options.noise, replicates=options.replicates, seed=options.seed)
        write_runs(runs, options.output)
        lines.append(f"written: {options.output}")
    if options.budget is not None:
        told = [_power(power, law, theta, plan, unique, options) for unique in options.unique]
        value["power"] = told
        lines += [
            f"U = {count(t['unique'])}: true optimum N {count(t['truth'][0])}, d {t['truth'][1]:.3g}, "
            f"{t['truth'][2]:.3g} epochs; interval of d is a factor {np.exp(t['density_width']):.2f} wide and holds "
            f"the truth in {100 * t['density_coverage']:.0f} % of {t['tables']} tables; acting on the answer loses "
            f"{t['regret']:.4f} nats"
            for t in told
        ]
    return _out(options, value, lines)


def _power(power: Any, law: Law, theta: Any, plan: Points, unique: float, options: Namespace) -> dict[str, Any]:
    runs = Runs.from_arrays(plan.active, plan.density, plan.unique, plan.tokens, 1.0)
    found = power(
        law,
        theta,
        plan,
        budget=options.budget,
        unique=unique,
        box=Box.of(runs),
        noise=options.noise,
        replicates=options.replicates,
        tables=options.tables,
        seed=options.seed,
    )
    return {"unique": unique, **asdict(found)}
