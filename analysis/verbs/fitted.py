"""The verbs `fit` and `compare`: one law with its parameters, and many laws judged on hold-outs."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from analysis.answer.compare import compare
from analysis.answer.warnings import of_fit
from analysis.fit import fit
from analysis.fit.intervals import Draws, bootstrap
from analysis.fit.joint import Fit
from analysis.fit.profile import Profile, profile_all
from analysis.fit.sensitivity import LEAST_SQUARES, sensitivity
from analysis.fit.staged import staged
from analysis.laws import named
from analysis.verbs.common import law_of, out, runs_without_settings
from raysparse.units import interval_text


def fit_table(options: Namespace) -> str:
    """`fit`: parameters with intervals; on request profiles, the four stages, other thresholds."""
    runs = runs_without_settings(options)
    law = law_of(options, runs)
    fitted = fit(law, runs, fixed=options.fix, delta=options.delta, seed=options.seed)
    draws = bootstrap(fitted, options.bootstraps, options.seed)
    warnings = of_fit(runs, fitted, draws)
    names = [p.name for p in fitted.problem.parameters] if options.profile else []
    profiles = dict(zip(names, profile_all(fitted, names), strict=True))
    value: dict[str, Any] = {
        "law": law.name,
        "formula": law.formula,
        "rows": len(runs),
        "objective": fitted.objective,
        "delta": fitted.delta,
        "rmse": fitted.rmse,
        "r2": fitted.r2,
        "parameters": fitted.parameters,
        "bootstrap_95": draws.parameter_intervals(),
        "profile_95_stored": {name: (p.low, p.high) for name, p in profiles.items()},
        "warnings": warnings,
        "minima": [{"objective": m.objective, "parameters": _natural(fitted, m.theta)} for m in fitted.minima],
    }
    lines = [*_parameters(fitted, draws, profiles), *(f"minimum {m.objective:.12g}" for m in fitted.minima[1:])]
    lines += _stages(options, fitted, value) if options.staged else []
    lines += _thresholds(fitted, value) if options.deltas else []
    return out(options, value, [*lines, *(f"! {warning}" for warning in warnings)], runs)


def _parameters(fitted: Fit, draws: Draws, profiles: dict[str, Profile]) -> list[str]:
    law, intervals = fitted.law, draws.parameter_intervals()
    lines = [
        f"{law.name}: {law.formula}",
        f"{len(fitted.runs)} runs, objective {fitted.objective:.12g} (delta {fitted.delta:g}), "
        f"RMSE {fitted.rmse:.5f} nats, R2 {fitted.r2:.5f}",
    ]
    for parameter in law.parameters:
        name = parameter.natural_name
        found = f"{fitted.parameters[name]:<12.6g} {interval_text(*intervals[name])}"
        lines.append(f"  {name:6} {found}  {parameter.meaning}")
        if parameter.name in profiles:
            p = profiles[parameter.name]
            ends = (end if abs(end) == float("inf") else parameter.natural(end) for end in (p.low, p.high))
            interval = interval_text(*ends)
            lines.append(f"  {'':6} {'':12} {interval}  profile")
    return lines


def _stages(options: Namespace, fitted: Fit, value: dict[str, Any]) -> list[str]:
    """The four published stages beside the joint fit; they are put into `value` too."""
    stages = staged(fitted.runs, delta=options.delta, seed=options.seed)
    value["staged"] = {"objectives": [s.objective for s in stages.stages], "parameters": stages.fit.parameters}
    told = [f"stage {i + 1}: {len(s.runs)} rows, objective {s.objective:.10g}" for i, s in enumerate(stages.stages)]
    return [*told, f"staged: {_listed(stages.fit)}"]


def _thresholds(fitted: Fit, value: dict[str, Any]) -> list[str]:
    """The fit under other Huber thresholds; put into `value` too."""
    others = sensitivity(fitted)
    value["deltas"] = {str(delta): other.parameters for delta, other in others.items()}
    return [
        f"delta {'least squares' if delta == LEAST_SQUARES else delta}: {_listed(other)}"
        for delta, other in others.items()
    ]


def _listed(fitted: Fit) -> str:
    return ", ".join(f"{name} {number:.5g}" for name, number in fitted.parameters.items())


def _natural(fitted: Fit, theta: Any) -> dict[str, float]:
    return {p.natural_name: p.natural(float(v)) for p, v in zip(fitted.law.parameters, theta, strict=True)}


def compare_table(options: Namespace) -> str:
    """`compare`: every law on every hold-out."""
    runs = runs_without_settings(options)
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
    return out(options, value, [*lines, "", result.why], runs)
