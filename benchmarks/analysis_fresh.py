"""Do the three roads to the exponent of N_opt ~ C^a agree, where every token is fresh?

Simulated tables made after the isoFLOP runs of Llama 3 (arXiv 2407.21783, section 3.2.1): dense
models of one epoch, ten budgets from 6e18 to 1e22 FLOPs, sizes on both sides of each budget's best,
and an untied Chinchilla law whose a is near the .46 printed there. Each table has its own law,
sizes and noise, drawn from its seed. For each road: how often its 95 % interval holds the true a,
and how often that of the parabolas holds what the law says. Writes results/analysis_fresh.json; run
`python -m benchmarks.analysis_fresh`.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.fresh import fresh
from analysis.answer.recommend import Interval
from analysis.answer.simulate import simulate
from analysis.answer.study import STUDY_DELTA
from analysis.data.files import write_json
from analysis.data.points import Points
from analysis.data.table import Runs
from analysis.fit.select import candidates
from analysis.laws import named

RESULTS = Path(__file__).parent / "results"
LAW = named("chinchilla")
BUDGETS, SIZES = np.geomspace(6e18, 1e22, 10), 8
AROUND = (0.2, 5.0)  # sizes tried, over the best one of their budget
NOISE = (0.003, 0.01)  # sd of log loss
FIRST = 100  # seed of the first table


def table(seed: int) -> tuple[Runs, float]:
    """One table, and its true exponent."""
    generator = np.random.default_rng(seed)
    alpha = 0.39 + 0.02 * generator.standard_normal()
    beta = 0.34 + 0.02 * generator.standard_normal()
    ln_a, ln_b = 6.3 + 0.2 * generator.standard_normal(), 7.2 + 0.2 * generator.standard_normal()
    theta = LAW.vector({"ln_A": ln_a, "ln_B": ln_b, "ln_E": np.log(0.55), "alpha": alpha, "beta": beta})
    spent = np.repeat(BUDGETS, SIZES)
    best = (np.log(alpha / beta) + ln_a - ln_b + beta * np.log(spent / 6)) / (alpha + beta)
    ratio = np.geomspace(*AROUND, SIZES) * np.exp(0.1 * generator.standard_normal(SIZES))
    size = np.exp(best) * np.tile(ratio, len(BUDGETS))
    tokens = spent / 6 / size
    noise = float(np.exp(generator.uniform(*np.log(NOISE))))
    return simulate(LAW, theta, Points.at(size, 1.0, tokens, tokens), noise=noise, seed=seed), beta / (alpha + beta)


def one(seed: int) -> dict[str, Any]:
    runs, truth = table(seed)
    found = fresh(runs, candidates(runs, delta=STUDY_DELTA), ACTIVE)
    assert found is not None
    roads = {road.name: road.a for road in found.roads}
    parabolas = roads["2, parabolas"]
    return {
        "seed": seed,
        "law": found.law,
        "truth": truth,
        "roads": {name: None if a is None else [a.value, a.low, a.high] for name, a in roads.items()},
        "holds_the_truth": {name: _inside(a, truth) for name, a in roads.items()},
        "parabolas_hold_the_law": _inside(parabolas, found.exponent.value),
    }


def _inside(interval: Interval | None, value: float) -> bool:
    return interval is not None and interval.low <= value <= interval.high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20)
    tables = parser.parse_args().tables
    rows = []
    for seed in range(FIRST, FIRST + tables):
        rows.append(one(seed))
        print(rows[-1], flush=True)
    shares = {
        name: float(np.mean([row["holds_the_truth"][name] for row in rows])) for name in rows[0]["holds_the_truth"]
    }
    agree = float(np.mean([row["parabolas_hold_the_law"] for row in rows]))
    summary = {"interval_holds_the_truth": shares, "parabolas_hold_the_law": agree}
    result = {
        "command": f"python -m benchmarks.analysis_fresh --tables {tables}",
        "device": platform.machine(),
        "python": platform.python_version(),
        "tables": tables,
        **summary,
        "rows": rows,
    }
    write_json(RESULTS / "analysis_fresh.json", result)
    print(summary)


if __name__ == "__main__":
    main()
