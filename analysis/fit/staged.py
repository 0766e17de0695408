"""The published four-stage fit (arXiv 2606.01155), each stage freezing what the earlier ones found.

1: dense one-epoch runs, [A, B, E, alpha]. 2: all one-epoch runs, all seven with F(d), started from
stage 1. 3: dense repeated runs, [R_N, R_D]. 4: sparse repeated runs, [l1, s1, l2, s2]. It is here
to compare with: stages 1 and 2 ignore that one-epoch runs may hold excess parameters (N > N_opt),
which biases R_N even without noise (docs/analysis.md). Prefer `fit`, which frees everything at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.joint import Fit, fit
from analysis.fit.problem import DELTA
from analysis.laws.named import named

ONE_EPOCH = 1.001  # epochs up to this count as one


@dataclass(frozen=True)
class Staged:
    """stages: the four fits in order. fit: the 13 parameters together, on all rows, with their
    joint objective.
    """

    stages: tuple[Fit, Fit, Fit, Fit]
    fit: Fit


def staged(runs: Runs, *, delta: float = DELTA, seed: int = 0) -> Staged:
    """Fit `sparse_published` in the published four stages.

    Raises ValueError naming the stage for which the table has too few rows.
    """
    once, dense = runs.points.epochs <= ONE_EPOCH, runs.points.density == 1.0
    parts = {
        "1 (dense, one epoch)": once & dense,
        "2 (one epoch)": once,
        "3 (dense, repeated)": ~once & dense,
        "4 (sparse, repeated)": ~once & ~dense,
    }
    for (name, rows), needed in zip(parts.items(), (4, 7, 2, 4), strict=True):
        if rows.sum() < needed:
            raise ValueError(
                f"stage {name} has {int(rows.sum())} rows and needs at least {needed}; "
                f"use the joint fit, or a law that this table carries"
            )
    tables = [runs.take(rows) for rows in parts.values()]
    first = fit(named("chinchilla_tied"), tables[0], delta=delta, seed=seed)
    plain = _warm(named("sparse_one_epoch").names, {**first.stored, "eps": 0.0, "mu": 1.0, "P": 0.0})
    second = fit(named("sparse_one_epoch"), tables[1], delta=delta, seed=seed, warm=plain)
    law = named("sparse_published")
    flat = dict.fromkeys(("l1", "s1", "l2", "s2"), 0.0)
    third = fit(law, tables[2], fixed={**second.stored, **flat}, delta=delta, seed=seed)
    kept = {name: value for name, value in third.stored.items() if name not in flat}
    fourth = fit(law, tables[3], fixed=kept, delta=delta, seed=seed)
    whole = replace(fourth, runs=runs, fixed={}, minima=())
    objective = whole.problem.objective(whole.theta[None], whole.residuals[None], delta)
    return Staged((first, second, third, fourth), replace(whole, objective=float(objective[0])))


def _warm(names: tuple[str, ...], values: Mapping[str, float]) -> Array:
    import numpy as np

    return np.array([values[name] for name in names])
