"""The verb `simulate`: a table drawn from a law, and what a planned sweep would tell."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.answer.optimum import Box
from analysis.answer.simulate import grid, power, simulate, write_runs
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.laws import Law, named, published_vector
from analysis.verbs.common import out
from raysparse.units import count


def simulate_table(options: Namespace) -> str:
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
        told = [_power(law, theta, plan, unique, options) for unique in options.unique]
        value["power"] = told
        lines += [
            f"U = {count(t['unique'])}: true optimum N {count(t['truth'][0])}, d {t['truth'][1]:.3g}, "
            f"{t['truth'][2]:.3g} epochs; interval of d is a factor {np.exp(t['density_width']):.2f} wide and holds "
            f"the truth in {100 * t['density_coverage']:.0f} % of {t['tables']} tables; acting on the answer loses "
            f"{t['regret']:.4f} nats"
            for t in told
        ]
    return out(options, value, lines)


def _power(law: Law, theta: Array, plan: Points, unique: float, options: Namespace) -> dict[str, Any]:
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
