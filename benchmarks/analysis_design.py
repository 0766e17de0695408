"""Does `design` save compute? Chosen trials against a uniform grid, over simulated studies.

A uniform grid over sizes, densities, unique tokens and epochs gives an interval of the optimal
density; its median width over the studies is the target. In each study the design starts from a
cheap pilot and adds batches until its interval is as narrow; both are charged for everything they
ran. Random trials of the grid are grown the same way. Candidates are the grid's own points, so that
the design has no trick up its sleeve. Writes results/analysis_design.json; run `python
benchmarks/analysis_design.py --studies 50`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.design import design
from analysis.answer.optimum import Box, search
from analysis.answer.recommend import Interval
from analysis.answer.simulate import grid, simulate
from analysis.data.files import dumps
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit import fit
from analysis.fit.intervals import Draws, bootstrap
from analysis.laws import Law, named, published_vector

RESULTS = Path(__file__).parent / "results"
BOX, BUDGET, UNIQUE, NOISE = Box((1e6, 1e10), (0.125, 1.0), (1.0, 16.0)), 3e19, 5e8, 0.008
SIZES, DENSITIES, UNIQUES, EPOCHS = (3e7, 1e8, 3e8, 1e9), (1.0, 0.5, 0.25, 0.125), (1.3e8, 5e8, 2e9), (1, 2, 4, 8, 16)
BATCH, ROUNDS, DRAWS = 24, 12, 400
OVERHEAD = 2.5e17  # FLOP a trial, about 5 % of the grid's mean trial: what starting one is worth


def width(runs: Runs, law: Law, seed: int) -> tuple[float, bool, Draws]:
    """Width of the 95 % interval of ln optimal density, whether it holds the truth, and the
    draws.
    """
    fitted = fit(law, runs, delta=1e-2, seed=seed)
    draws = bootstrap(fitted, DRAWS, seed)
    found = search(law, np.concatenate([fitted.theta[None], draws.theta]), BOX, BUDGET, UNIQUE)
    interval = Interval.of(found.density, draws, BOX.density)
    truth = search(law, published_vector(), BOX, BUDGET, UNIQUE).density[0]
    return float(np.log(interval.high / interval.low)), bool(interval.low <= truth <= interval.high), draws


def pilot(plan: Points, rows: int = 36) -> Array:
    """A cheap start that the law can be fitted to: the two smallest sizes and U, all densities,
    three epochs.
    """
    cheap = (plan.active / plan.density <= 1.1e8) & (plan.unique < 6e8) & np.isin(np.round(plan.epochs), (1, 4, 16))
    chosen = np.flatnonzero(cheap)
    return chosen[np.argsort(ACTIVE.of(plan.take(chosen)), kind="stable")][:rows]


def grow(plan: Points, wanted: float, number: int, chosen_by: str) -> tuple[Array, float, bool]:
    """From the pilot, add batches until the interval is as narrow as wanted: rows run, width, holds
    the truth.

    chosen_by: `design`, or `chance` (the grid's points in random order, replicated when all were
    run).
    """
    law, theta, rows = named("sparse_published"), published_vector(), pilot(plan)
    generator = np.random.default_rng(number)
    loss = simulate(law, theta, plan.take(rows), noise=NOISE, seed=10_000 + number).loss
    reached, holds = np.inf, False
    for turn in range(ROUNDS):
        where = plan.take(rows)
        runs = Runs.from_arrays(where.active, where.density, where.unique, where.tokens, loss)
        reached, holds, draws = width(runs, law, number)
        if reached <= wanted:
            break
        if chosen_by == "design":
            more = design(draws, plan, BATCH, budget=BUDGET, unique=UNIQUE, box=BOX, overhead=OVERHEAD).rows
        else:
            left = np.setdiff1d(np.arange(len(plan)), rows)
            more = generator.choice(left if len(left) >= BATCH else len(plan), BATCH, replace=False)
        if not len(more):
            break
        rows = np.concatenate([rows, more])
        fresh = simulate(law, theta, plan.take(more), noise=NOISE, seed=20_000 + 100 * number + turn).loss
        loss = np.concatenate([loss, fresh])
    return rows, reached, holds


def uniform(number: int) -> dict[str, float]:
    """The interval that the whole grid gives in one study."""
    law, theta, plan = named("sparse_published"), published_vector(), grid(SIZES, DENSITIES, UNIQUES, EPOCHS)
    reached, holds, _ = width(simulate(law, theta, plan, noise=NOISE, seed=number), law, number)
    return {"study": number, "grid_width": reached, "grid_holds": holds}


def study(number: int, wanted: float) -> dict[str, float]:
    """One study: what a design, and random trials of the grid, cost until their interval is as
    narrow as wanted.
    """
    plan = grid(SIZES, DENSITIES, UNIQUES, EPOCHS)
    cost, row = ACTIVE.of(plan), {}
    for name in ("design", "chance"):
        rows, reached, held = grow(plan, wanted, number, name)
        share = float(cost[rows].sum() / cost.sum()) if reached <= wanted else float("inf")
        row |= {f"{name}_width": reached, f"{name}_holds": held, f"{name}_trials": len(rows), f"{name}_share": share}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first study, which seeds it: fresh ones confirm a setting"
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "analysis_design.json")
    arguments = parser.parse_args()
    start = time.process_time()
    rows = [uniform(number) for number in range(arguments.first, arguments.first + arguments.studies)]
    wanted = float(np.median([row["grid_width"] for row in rows]))
    for row in rows:
        row |= study(int(row["study"]), wanted)
        print(row, flush=True)
    shares = {name: np.array([row[f"{name}_share"] for row in rows]) for name in ("design", "chance")}
    held = {name: float(np.mean([row[f"{name}_holds"] for row in rows])) for name in ("grid", "design", "chance")}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        dumps(
            {
                "command": "python " + " ".join(["benchmarks/analysis_design.py", *sys.argv[1:]]),
                "device": platform.processor() or platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "noise": NOISE,
                "batch": BATCH,
                "overhead": OVERHEAD,
                "target_width_ln_density": wanted,
                "grid_trials": len(grid(SIZES, DENSITIES, UNIQUES, EPOCHS)),
                "median_share_of_grid_flops": {name: float(np.median(values)) for name, values in shares.items()},
                "never_reached": {name: int(np.isinf(values).sum()) for name, values in shares.items()},
                "coverage_of_the_final_interval": held,
                "cpu_seconds": time.process_time() - start,
                "rows": rows,
            }
        )
        + "\n"
    )
    print({name: float(np.median(values)) for name, values in shares.items()}, held)


if __name__ == "__main__":
    main()
