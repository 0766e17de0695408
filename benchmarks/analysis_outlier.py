"""How far does one bad row of a table move the answer?

Tables of the default plan from a law of the family (`answers_truths`), each answered as it is and
again with one row, drawn by the seed, a seventh too high or a tenth too low. What counts is what
acting on the answer costs: the true loss of the advised run of either table, at the two largest
budgets of `analysis_answers`. Writes results/analysis_outlier.json; run
`python -m benchmarks.analysis_outlier`.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import replace
from typing import Any

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.ensemble import ensemble
from analysis.answer.optimum import Box, search
from analysis.data.files import write_json
from analysis.data.table import Runs
from analysis.fit.select import candidates
from benchmarks.analysis_answers import DELTA, ROOT, SHARES
from benchmarks.answers_truths import TRUTHS, Truth, table

BAD = (1.15, 0.9)  # what the bad row's loss is multiplied by
FIRST = 700  # seed of the first table


def advised(truth: Truth, runs: Runs) -> list[tuple[float, float]]:
    """(true, predicted) loss of the advised run, by U and budget; nats per token."""
    laws, box = ensemble(candidates(runs, 0, DELTA), draws=2), Box.of(runs)
    found = []
    for unique in np.unique(runs.points.unique):
        dearest = float(ACTIVE.of(runs.points.take(runs.points.unique == unique)).max())
        for share in SHARES[:2]:
            best = search(laws, laws.numbers[:1], box, share * dearest, float(unique))
            found.append((float(truth.loss(best.point())[0]), float(best.loss[0])))
    return found


def one(seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng([seed, 0])
    truth = TRUTHS["in the family"](generator)
    runs = table(truth, generator)
    row = int(generator.integers(len(runs)))
    clean = advised(truth, runs)
    told = []
    for factor in BAD:
        loss = runs.loss.copy()
        loss[row] *= factor
        moved = advised(truth, replace(runs, loss=loss))
        told += [
            {
                "seed": seed,
                "factor": factor,
                "row": row,
                "true": after[0] - before[0],
                "predicted": after[1] - before[1],
            }
            for before, after in zip(clean, moved, strict=True)
        ]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=20)
    arguments = parser.parse_args()
    rows = []
    for seed in range(FIRST, FIRST + arguments.tables):
        rows += one(seed)
        print(f"seed {seed}: worst so far {max(row['true'] for row in rows):.4f} nats", flush=True)
    summary = {}
    for factor in BAD:
        for what in ("true", "predicted"):
            moved = np.array([row[what] for row in rows if row["factor"] == factor])
            moved = moved if what == "true" else np.abs(moved)
            summary[f"{what}, row times {factor}"] = {
                "mean": float(moved.mean()), "95th": float(np.quantile(moved, 0.95)), "worst": float(moved.max()),
                "below .01": float(np.mean(moved < 0.01)),
            }  # fmt: skip
    result = {
        "command": f"python -m benchmarks.analysis_outlier --tables {arguments.tables}",
        "device": platform.machine(), "python": platform.python_version(), "moved_nats": summary, "rows": rows,
    }  # fmt: skip
    write_json(ROOT / "benchmarks" / "results" / "analysis_outlier.json", result)
    print(summary)


if __name__ == "__main__":
    main()
