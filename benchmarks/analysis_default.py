"""Does the answer of a default sweep stand still? The same table with other noise, and resampled.

For each table that is given (a run folder or file of a finished `make sweep`): what its answer says
of the largest budget; the same after every loss was moved by noise of half a per cent, twelve
times, which shall move ln density little; and the same of tables whose experiments were drawn anew
with replacement (a row drawn twice counts as two), whose advised losses and densities the printed
intervals shall hold. Everything is fitted anew each time. Writes results/analysis_default.json; run
`python -m benchmarks.analysis_default --tables FOLDER ...`.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.choice import BestRun
from analysis.answer.settings import answer, own_cost
from analysis.data.files import write_json
from analysis.data.points import Array
from analysis.data.table import Runs, read_table

RESULTS = Path(__file__).parent / "results"
NOISE, NOISY = 0.005, 12  # sd of ln L that is added, and tables with it
RESAMPLED = 8  # tables of experiments drawn with replacement


def asked(runs: Runs) -> dict[str, float]:
    """The default question: the most unique tokens, at the cost of their dearest run."""
    unique = float(runs.points.unique.max())
    return {"unique": unique, "budget": float(own_cost(runs).of(runs.points.take(runs.points.unique == unique)).max())}


def noisy(runs: Runs) -> Iterator[Runs]:
    for seed in range(NOISY):
        moved = np.random.default_rng(seed).standard_normal(len(runs))
        yield replace(runs, loss=runs.loss * np.exp(NOISE * moved))


def resampled(runs: Runs) -> Iterator[Runs]:
    """The same number of experiments, each with all its replicates."""
    kinds = np.unique(runs.group)
    for seed in range(RESAMPLED):
        drawn = np.random.default_rng(seed).choice(kinds, len(kinds))
        yield runs.take(np.concatenate([np.flatnonzero(runs.group == kind) for kind in drawn]))


def told(found: BestRun) -> dict[str, float]:
    return {"density": found.best.density.value, "loss": found.best.expected.value, "claims": float(found.shown)}


def moves(answers: list[BestRun]) -> dict[str, Any]:
    """How the answers differ."""
    rows = [told(one) for one in answers]
    density, loss = (np.array([row[name] for row in rows]) for name in ("density", "loss"))
    return {
        "tables": len(rows),
        "sd_of_ln_density": float(np.log(density).std(ddof=1)),
        "sd_of_loss": float(loss.std(ddof=1)),
        "claim_a_difference": float(np.mean([row["claims"] for row in rows])),
        "rows": rows,
    }


def held(first: BestRun, others: list[dict[str, float]]) -> dict[str, float]:
    """Share of the other answers that the first one's intervals hold."""

    def share(interval: Any, values: Array) -> float:
        return float(np.mean((interval.low - 1e-9 <= values) & (values <= interval.high + 1e-9)))

    values = {name: np.array([other[name] for other in others]) for name in ("density", "loss")}
    return {"density": share(first.best.density, values["density"]), "loss": share(first.best.loss, values["loss"])}


def study(path: Path) -> dict[str, Any]:
    runs = read_table(path)
    question = asked(runs)
    first = answer(runs, **question)
    best = int(np.argmin(np.where(own_cost(runs).of(runs.points) <= question["budget"] * 1.001, runs.loss, np.inf)))
    noise = moves([answer(one, **question) for one in noisy(runs)])
    again = moves([answer(one, **question) for one in resampled(runs)])
    return {
        "rows": len(runs),
        "names_the_best_row": first.rows[0].row == str(runs.ids[best]),
        "answer": told(first)
        | {"loss_of_one_run": asdict(first.best.loss), "density_range": asdict(first.best.density)},
        "difference": None if first.difference is None else asdict(first.difference),
        "noise": noise,
        "resampled": again | {"held_by_the_intervals": held(first, again["rows"])},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="run folders or tables of default sweeps")
    found = {}
    for path in parser.parse_args().tables:
        found[path.name] = study(path)
        part = found[path.name]
        print(path.name, {name: part[name] for name in ("names_the_best_row", "answer", "difference")}, flush=True)
        print(
            {key: value for key, value in part["noise"].items() if key != "rows"},
            part["resampled"]["held_by_the_intervals"],
        )
    result = {
        "command": "python -m benchmarks.analysis_default --tables FOLDER ...",
        "noise": NOISE,
        "device": platform.machine(),
        "python": platform.python_version(),
        "tables": found,
    }
    write_json(RESULTS / "analysis_default.json", result)


if __name__ == "__main__":
    main()
