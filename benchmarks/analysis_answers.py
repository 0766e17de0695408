"""Is the answer good when it is acted on? Regret and coverage over tables whose truth is known.

Nine kinds of truth (`answers_truths`), most of them no law of ours, with the default plan or, with
`--settings`, a random weight decay on every run. Regret is the true loss of the run that is printed
minus the least true loss at a cost of at most the budget, inside the table's box. Beside it stands
the rule "train the best row again". Seeds from 10000 on were used while writing the analysis and
are not those of the figures. Every table's rows are appended to `--rows` when it is done, and
tables that stand there are not made again, so a run that was ended goes on. Writes
results/analysis_answers.json (or, with settings, analysis_answers_settings.json); run
`python -m benchmarks.analysis_answers --tables 60`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.ensemble import ensemble
from analysis.answer.guided import guided
from analysis.answer.optimum import Box
from analysis.answer.recommend import Interval, Recommendation, recommend
from analysis.answer.savings import affordable
from analysis.answer.settings import answer
from analysis.data.files import write_json
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.intervals import Draws
from analysis.fit.select import candidates, pick
from benchmarks.answers_truths import FINE, NOISE, TRUTHS, Known, Truth, best_decay, best_possible, mistaken, table

ROOT = Path(__file__).parents[1]
SHARES = (1.0, 1 / 4, 1 / 16)  # budgets, as shares of the dearest run's cost
DELTA = 1e-2
DRAWS = 60
SLACK = {"density": 0.5 * np.log(4) / (FINE[0] - 1), "epochs": 0.5 * np.log(9) / (FINE[1] - 1)}  # half a step
COVERED = ("loss", "density", "epochs", "saving", "difference")
NEAR = np.log(1.5)  # a weight decay within this of the best of its run is called near


def holds(interval: Interval, value: float, slack: float = 0.0) -> bool:
    """slack: in logarithms, half a step of the grid of the truth."""
    return bool(interval.low * np.exp(-slack) <= value <= interval.high * np.exp(slack))


def one(name: str, seed: int, settings: bool) -> list[dict[str, Any]]:
    """The answers to one table: two U, three budgets."""
    generator = np.random.default_rng([seed, list(TRUTHS).index(name)])
    truth = TRUTHS[name](generator)
    runs = table(truth, generator, settings)
    judge = (_by_settings if settings else _by_laws)(truth, runs)
    rows = []
    for unique in np.unique(runs.points.unique):
        dearest = float(ACTIVE.of(runs.points.take(runs.points.unique == unique)).max())
        for share in SHARES:
            best = best_possible(truth, Box.of(runs), share * dearest, float(unique))
            told = judge(share * dearest, float(unique), *best)
            where = {"truth": name, "seed": seed, "share": share, "unique": float(unique)}
            rows.append(where | {"density_inside": not _on_an_edge(best[1], Box.of(runs))} | told)
    return rows


def _on_an_edge(density: float, box: Box) -> bool:
    """An interval that holds an edge is right wherever the best density is that edge itself, so
    those answers say little of its width.
    """
    return bool(np.isclose(density, box.density).any())


def _by_laws(truth: Truth, runs: Runs) -> Any:
    tried = candidates(runs, 0, DELTA)
    chosen = pick(tried)
    assert chosen is not None
    assert chosen.fit is not None
    fitted, laws, box = chosen.fit, ensemble(tried, DRAWS), Box.of(runs)
    alone = Draws(fitted, fitted.theta[None], "pairs")  # the ensemble's draws are those that count

    def judge(budget: float, unique: float, least: float, density: float, epochs: float) -> dict[str, Any]:
        item = recommend(fitted, alone, budget, unique, box, laws=laws)
        got = _true(truth, item, unique)
        row = item.rows[0]
        again = float(truth.loss(Points.at(row.active, row.density, unique, unique * row.epochs))[0])
        grid = affordable(Known(truth), np.zeros((1, 1)), box, 0.5, budget, unique, ACTIVE)
        return {
            "regret": got - least,
            "best_row_regret": again - least,
            "loss": holds(item.loss, got),
            "density": holds(item.density, density, SLACK["density"]),
            "epochs": holds(item.epochs, epochs, SLACK["epochs"]),
            "saving": holds(item.saving, float(grid.saving()[0]), 1e-6),
            "claimed": item.shown,
        }

    return judge


def _true(truth: Truth, item: Recommendation, unique: float) -> float:
    where = Points.at(item.active.value, item.density.value, unique, unique * item.epochs.value)
    return float(truth.loss(where)[0])


def _by_settings(truth: Truth, runs: Runs) -> Any:
    def loss(points: Points, decay: float) -> float:
        return float((truth.loss(points) + mistaken(points, np.array([decay])))[0])

    model = guided(runs)

    def judge(budget: float, unique: float, least: float, density: float, epochs: float) -> dict[str, Any]:
        item = answer(runs, budget=budget, unique=unique, cost=ACTIVE, draws=2 * DRAWS, model=model)
        best, row = item.best, item.rows[0]
        got = loss(best.point(unique), best.settings["weight_decay"].value)
        where = Points.at(row.active, row.density, unique, unique * row.epochs)
        again = loss(where, row.settings["weight_decay"])
        told = {
            "regret": got - least,
            "best_row_regret": again - least,
            "loss": holds(best.expected, got),
            "density": holds(best.density, density, SLACK["density"]),
            "epochs": holds(best.epochs, epochs, SLACK["epochs"]),
            "claimed": item.shown,
            "decay_near": bool(
                abs(np.log(best.settings["weight_decay"].value / best_decay(best.point(unique))[0])) < NEAR
            ),
        }
        if item.difference and item.dense and item.sparse:
            each = [loss(c.point(unique), c.settings["weight_decay"].value) for c in (item.dense, item.sparse)]
            told["difference"] = bool(item.difference.low <= each[0] - each[1] <= item.difference.high)
        return told

    return judge


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Regrets and coverage by budget, over all truths, coverage also in the worst."""
    names = [name for name in TRUTHS if any(row["truth"] == name for row in rows)]
    told = []
    for share in SHARES:
        some = [row for row in rows if row["share"] == share]
        regret, again = (_column(some, key) for key in ("regret", "best_row_regret"))
        entry: dict[str, Any] = {
            "budget_share": share,
            "answers": len(some),
            "regret_median": float(np.median(regret)),
            "regret_mean": float(regret.mean()),
            "regret_95th": float(np.quantile(regret, 0.95)),
            "best_row_mean": float(again.mean()),
            "worse_than_best_row": float(np.mean(regret > again + 1e-9)),
            "regret_mean_by_truth": {name: float(_of(some, name, "regret").mean()) for name in names},
        }
        for what in ("claimed", "decay_near", "density_inside"):
            if any(what in row for row in some):
                entry[what] = float(_column(some, what).mean())
        for what in COVERED:
            if all(what not in row for row in some):
                continue
            by_truth = {name: float(_of(some, name, what).mean()) for name in names}
            entry[f"coverage_{what}"] = float(_column(some, what).mean())
            entry[f"coverage_{what}_by_truth"] = by_truth
        inside = [row for row in some if row.get("density_inside")]
        if inside:
            entry["coverage_density_inside"] = float(_column(inside, "density").mean())
        told.append(entry)
    return told


def _of(rows: list[dict[str, Any]], truth: str, key: str) -> Array:
    return _column([row for row in rows if row["truth"] == truth], key)


def _column(rows: list[dict[str, Any]], key: str) -> Array:
    return np.array([row[key] for row in rows if key in row], dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=60, help="tables per truth")
    parser.add_argument("--first", type=int, default=0, help="seed of the first table")
    parser.add_argument("--settings", action="store_true", help="a random weight decay on every run")
    parser.add_argument("--rows", type=Path, help="where finished tables are kept (default: build/NAME.jsonl)")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    name = "analysis_answers_settings" if arguments.settings else "analysis_answers"
    kept = arguments.rows or ROOT / "build" / f"{name}.jsonl"
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["truth"], row["seed"]) for row in rows}
    for seed in range(arguments.first, arguments.first + arguments.tables):
        for truth in TRUTHS:
            if (truth, seed) in done:
                continue
            found = one(truth, seed, arguments.settings)
            rows += found
            with kept.open("a") as file:
                file.write("".join(json.dumps(row) + "\n" for row in found))
            write_json(output, report(rows))
            print(f"{truth}, seed {seed}", flush=True)


def report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept: the figures, and how they were made."""
    return {
        "command": " ".join(["python -m benchmarks.analysis_answers", *sys.argv[1:]]),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "tables": {name: len({row["seed"] for row in rows if row["truth"] == name}) for name in TRUTHS},
        "draws": DRAWS,
        "noise": NOISE,
        "rows": summarise(rows),
    }


if __name__ == "__main__":
    main()
