"""Do 95 % intervals hold the truth 95 % of the time? At least 200 simulated tables per case.

Three cases: a sweep of the papers' size under the published law, a laptop-sized sweep, and the
laptop sweep with heavy-tailed noise and two seeds. Judged are the expected loss at points inside
the table's range, the loss of a new run, and the optimal density at a stated budget. Writes
results/analysis_calibration.json; run with `python benchmarks/analysis_calibration.py --tables
200`. What it does not test: a wrong law (see docs/analysis.md).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from analysis.answer.optimum import Box, search
from analysis.answer.recommend import Interval
from analysis.answer.simulate import Tail, grid, simulate
from analysis.data.files import dumps
from analysis.data.points import Array, Points
from analysis.fit import fit
from analysis.fit.intervals import bootstrap
from analysis.laws import Law, named, published_vector

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """A planned sweep, the law that generates it, and the question asked of each table."""

    name: str
    law: Law
    theta: Array
    plan: Points
    box: Box
    budget: float
    unique: float
    noise: float = 0.008
    replicates: int = 1
    tail: Tail = "normal"


def cases() -> list[Case]:
    paper = grid([3e7, 1e8, 3e8, 1e9], [1, 0.5, 0.25, 0.125], [1.3e8, 5e8, 2e9], [1, 2, 4, 8, 16])
    small = named("sparse_identified")
    theta = small.vector(
        {
            "ln_A": np.log(24.0),
            "ln_B": np.log(60.0),
            "ln_E": np.log(0.9),
            "alpha": 0.3,
            "k": -0.55,
            "m": 0.1,
            "ln_R_D": np.log(6.0),
            "ln_R_N": np.log(20.0),
            "g1": 0.2,
            "g2": -1.8,
        }
    )
    laptop = grid([8e4, 2.9e5, 9.6e5], [1, 0.5, 0.25, 0.125], [1e5, 4e5], [1, 2, 4, 8])
    box = Box((1e4, 4e6), (0.125, 1.0), (1.0, 8.0))
    common = {"law": small, "theta": theta, "plan": laptop, "box": box, "budget": 3e11, "unique": 1e5}
    return [
        Case(
            "paper",
            named("sparse_published"),
            published_vector(),
            paper,
            Box((1e6, 1e10), (0.125, 1.0), (1.0, 16.0)),
            3e19,
            5e8,
        ),
        Case("laptop", **common),
        Case("laptop, two seeds, heavy tails", **common, replicates=2, tail="laplace"),
    ]


def coverage(case: Case, numbers: range, draws: int, delta: float, scheme: str) -> dict[str, object]:
    """Shares of intervals that hold the truth, with the binomial standard error of the
    density's.
    """
    best = search(case.law, case.theta, case.box, case.budget, case.unique)
    check = grid(
        np.geomspace(case.plan.active.max() / 30, case.plan.active.max(), 4),
        [1, 0.6, 0.3],
        np.unique(case.plan.unique)[:2],
        [1, 3, 8],
    )
    expected = case.law.predict(case.theta, check)
    loss, new, density, widths = [], [], [], []
    start = time.process_time()
    for number in numbers:
        runs = simulate(
            case.law, case.theta, case.plan, noise=case.noise, replicates=case.replicates, tail=case.tail, seed=number
        )
        fitted = fit(case.law, runs, delta=delta)
        sample = bootstrap(fitted, draws, number, scheme)
        low, high = sample.predict(check)
        loss.append(np.mean((low <= expected) & (expected <= high)))
        fresh = simulate(case.law, case.theta, check, noise=case.noise, tail=case.tail, seed=100_000 + number).loss
        low, high = sample.predict_run(check)
        new.append(np.mean((low <= fresh) & (fresh <= high)))
        found = search(case.law, np.concatenate([fitted.theta[None], sample.theta]), case.box, case.budget, case.unique)
        interval = Interval.of(found.density, sample, case.box.density)
        density.append(interval.low - 1e-9 <= best.density[0] <= interval.high + 1e-9)
        widths.append(np.log(interval.high / interval.low))
    share = float(np.mean(density))
    return {
        "case": case.name,
        "law": case.law.name,
        "rows": len(case.plan) * case.replicates,
        "noise": case.noise,
        "tail": case.tail,
        "delta": delta,
        "scheme": scheme,
        "tables": len(numbers),
        "draws": draws,
        "true_density": float(best.density[0]),
        "loss_coverage": float(np.mean(loss)),
        "new_run_coverage": float(np.mean(new)),
        "density_coverage": share,
        "density_standard_error": float(np.sqrt(share * (1 - share) / len(numbers))),
        "median_width_ln_density": float(np.median(widths)),
        "cpu_seconds": time.process_time() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first table, which seeds it: fresh ones confirm a choice"
    )
    parser.add_argument("--chosen", action="store_true", help="only the study's own setting: delta 1e-2, pairs")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--output", type=Path, default=RESULTS / "analysis_calibration.json")
    arguments = parser.parse_args()
    rows = []
    numbers = range(arguments.first, arguments.first + arguments.tables)
    others = [] if arguments.chosen else [(1e-2, "smooth"), (1e-3, "smooth"), (1e-3, "pairs")]
    for case in cases():
        if arguments.only not in case.name:
            continue
        for delta, scheme in ((1e-2, "pairs"), *others):
            rows.append(coverage(case, numbers, arguments.draws, delta, scheme))
            print(json.dumps(rows[-1]), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        dumps(
            {
                "command": "python " + " ".join(["benchmarks/analysis_calibration.py", *sys.argv[1:]]),
                "device": platform.processor() or platform.machine(),
                "python": platform.python_version(),
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "rows": rows,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
