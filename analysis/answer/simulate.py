"""Tables drawn from a law: to test the analysis, and to see before spending what a planned sweep
would tell.

`simulate` draws losses at given points with noise and replicates. `power` draws many tables of a
plan, analyses each as a real one would be, and reports how wide the answers are and how often their
intervals hold the truth. The noise is on log loss, as the fit assumes; real noise may be heavier
and may grow with repetition.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.optimum import Box, refusal, search
from analysis.data.files import write_bytes
from analysis.data.points import Points
from analysis.data.table import Runs
from analysis.fit.intervals import bootstrap
from analysis.fit.joint import fit
from analysis.laws import Law

NOISE = 0.008  # sd of log loss between seeds of one specification, as seen in public tables (docs/analysis.md)
Tail = Literal["normal", "laplace"]


def grid(sizes: ArrayLike, densities: ArrayLike, uniques: ArrayLike, epochs: ArrayLike) -> Points:
    """Every combination of total sizes (N at density 1), densities, unique tokens and epochs."""
    rows = list(product(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in (sizes, densities, uniques, epochs))))
    size, density, unique, passes = np.array(rows).T
    return Points(size * density, density, unique, unique * passes)


def simulate(
    law: Law,
    theta: ArrayLike,
    points: Points,
    *,
    noise: float = NOISE,
    replicates: int = 1,
    tail: Tail = "normal",
    seed: int = 0,
) -> Runs:
    """Runs at `points`, each `replicates` times, with log loss = the law's + noise of that sd.

    Raises ValueError for negative noise, fewer than one replicate, or an unknown tail.
    """
    if not noise >= 0:
        raise ValueError(f"noise is {noise!r}; it is the sd of log loss and cannot be negative")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates!r}; at least one run per point is needed")
    if tail not in ("normal", "laplace"):
        raise ValueError(f"tail is {tail!r}; expected 'normal' or 'laplace'")
    generator = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(points)), replicates)
    where = points.take(rows)
    unit = generator.standard_normal(len(rows)) if tail == "normal" else generator.laplace(0, np.sqrt(0.5), len(rows))
    loss = law.predict(np.asarray(theta, dtype=float), where) * np.exp(noise * unit)
    return Runs.from_arrays(where.active, where.density, where.unique, where.tokens, loss)


@dataclass(frozen=True)
class Power:
    """What a plan would tell, over `tables` simulated tables.

    density_width: median width of the 95 % interval of ln optimal density. density_coverage,
    loss_coverage: share of tables whose interval holds the true optimal density; share of (table,
    point) pairs whose interval holds the true expected loss. regret: median extra loss (nats) of
    training the estimated optimum instead of the true one. cost: of the whole plan. truth: (N,
    density, epochs) of the true optimum.
    """

    tables: int
    density_width: float
    density_coverage: float
    loss_coverage: float
    regret: float
    cost: float
    truth: tuple[float, float, float]


def power(
    law: Law,
    theta: ArrayLike,
    plan: Points,
    *,
    budget: float,
    unique: float | None,
    box: Box,
    cost: Cost = ACTIVE,
    fitted_law: Law | None = None,
    check: Points | None = None,
    noise: float = NOISE,
    replicates: int = 1,
    tables: int = 20,
    bootstraps: int = 100,
    delta: float = 1e-2,
    seed: int = 0,
) -> Power:
    """Simulate `tables` sweeps over `plan` and analyse each with `fitted_law` (default: the law
    itself).

    budget, unique, box: where the optimum is asked for. check: points whose predicted loss is
    judged (default: the plan's own). Deterministic given the seed.

    Raises ValueError for no table, or a budget that no run of the box is as cheap as.
    """
    if tables < 1:
        raise ValueError(f"tables is {tables!r}; the power needs at least one simulated table")
    truth = np.asarray(theta, dtype=float)
    best = search(law, truth, box, budget, unique, cost)
    if refused := refusal(best, box, cost):
        raise ValueError(f"budget {budget:.3g} {cost.unit}: {refused}; raise it or plan cheaper runs")
    check = check or plan
    expected = law.predict(truth, check)
    widths, held, losses, regrets = [], [], [], []
    for number in range(tables):
        runs = simulate(law, truth, plan, noise=noise, replicates=replicates, seed=seed + number)
        fitted = fit(fitted_law or law, runs, delta=delta, seed=seed)
        draws = bootstrap(fitted, bootstraps, seed + number)
        low, high = draws.predict(check)
        losses.append(np.mean((low <= expected) & (expected <= high)))
        found = search(fitted.law, np.concatenate([fitted.theta[None], draws.theta]), box, budget, unique, cost)
        logs = np.log(found.density)
        low_d, high_d = np.clip(draws.interval(logs[1:], logs[0]), *np.log(box.density))
        widths.append(high_d - low_d)
        held.append(low_d - 1e-6 <= np.log(best.density[0]) <= high_d + 1e-6)
        regrets.append(law.predict(truth, found.point())[0] - best.loss[0])
    return Power(
        tables,
        float(np.median(widths)),
        float(np.mean(held)),
        float(np.mean(losses)),
        float(np.median(regrets)),
        float(replicates * cost.of(plan).sum()),
        (float(best.active[0]), float(best.density[0]), float(best.epochs[0])),
    )


def write_runs(runs: Runs, path: Path) -> Path:
    """Write runs as a .csv or .parquet that `read_table` reads without a mapping."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    points = runs.points
    table = pa.table(
        {
            "trial_id": [str(name) for name in runs.ids],
            "active": points.active,
            "density": points.density,
            "unique_tokens": points.unique,
            "tokens": points.tokens,
            "epochs": points.epochs,
            "loss": runs.loss,
        }
    )
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"cannot write {path.name!r}: expected a name ending in .csv or .parquet")
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        csv.write_csv(table, buffer)
    else:
        pq.write_table(table, buffer)
    return write_bytes(path, buffer.getvalue())
