"""Does an answer of the smooth model alone survive being acted on? Tables with a known truth.

This is the model that a planner asks; the laws that guide a final answer are judged in
`analysis_answers`. For each truth of `settings_truths` and each size of table: the regret of the
run that is advised against the best run under the same cap, beside the rule "train the best
measured row again"; how often each printed 95 % interval holds what it speaks of; how near the
advised settings are to the best ones of that run. Writes results/analysis_settings.json; run with
`python benchmarks/analysis_settings.py --tables 30`. Tables of seeds below 1000 were used to choose
the model's constants and are not used here.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.answer.choice import BestRun, Choice
from analysis.answer.costs import ACTIVE
from analysis.answer.settings import answer, data_box
from analysis.answer.space import Space
from analysis.answer.surrogate import surrogate
from analysis.data.files import dumps
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.gaussian import spread
from benchmarks.settings_truths import DENSITIES, TRUTHS, UNIQUE, Truth

RESULTS = Path(__file__).parent / "results"
NOISE = 0.02
BUDGETS = {"large": 0.95, "small": 0.5}  # quantiles of the rows' costs
FIRST = 1000  # seed of the first table


def best_under_cap(truth: Truth, runs: Runs, budget: float) -> tuple[float, dict[str, float]]:
    """The least expected loss inside the box at a cost of at most the budget, and where it is:
    dense, or at most as dense as the densest sparse rows.
    """
    frame = surrogate(runs).frame
    found = []
    for density in ((1.0, 1.0), DENSITIES[1:][::-1]):
        space = Space.of(runs, replace(data_box(runs), density=density), ACTIVE, budget, UNIQUE, frame)
        found.append(least(truth, space))
    return min(found, key=lambda one: one[0])


def least(truth: Truth, space: Space) -> tuple[float, dict[str, float]]:
    cube, width = spread(space.dimensions, 20_000), 0.1
    for _ in range(6):
        points, columns, fits = space.at(cube)
        settings = space.frame.named(columns)
        loss = np.where(fits, truth.loss(points, settings), np.inf)
        at = int(loss.argmin())
        place = {"active": points.active, "density": points.density, "epochs": points.epochs} | settings
        around = np.clip(cube[at] + width * (2 * spread(space.dimensions, 2000) - 1), 0, 1)
        cube = np.concatenate([cube[[at]], around])
        width *= 0.4
    return float(loss[at]), {name: float(values[at]) for name, values in place.items()}


def true_loss(truth: Truth, choice: Choice) -> float:
    """Expected loss of a run, were it trained."""
    settings = {name: np.array([interval.value]) for name, interval in choice.settings.items()}
    return float(truth.loss(choice.point(UNIQUE), settings)[0])


def trial(truth: Truth, rows: int, seed: int, draws: int) -> list[dict[str, Any]]:
    runs = truth.table(rows, NOISE, seed)
    told = []
    for name, quantile in BUDGETS.items():
        budget = float(np.quantile(ACTIVE.of(runs.points), quantile))
        found = answer(runs, budget=budget, unique=UNIQUE, cost=ACTIVE, draws=draws, seed=0, model=surrogate(runs))
        told.append({"budget": name} | judge(truth, runs, found, np.random.default_rng([seed, rows, int(budget)])))
    return told


def judge(truth: Truth, runs: Runs, found: BestRun, generator: np.random.Generator) -> dict[str, Any]:
    lowest, place = best_under_cap(truth, runs, found.budget)
    loss = true_loss(truth, found.best)
    measured = loss + NOISE * generator.standard_normal()
    within = np.flatnonzero(ACTIVE.of(runs.points) <= found.budget)
    row = within[[int(runs.loss[within].argmin())]]
    again = float(truth.loss(runs.points.take(row), {k: v[row] for k, v in runs.settings.items()})[0])
    held = {
        "run": inside(found.best.loss, measured),
        "expected": inside(found.best.expected, loss),
        **{name: inside(getattr(found.best, name), place[name]) for name in ("active", "density", "epochs")},
        **{name: inside(interval, place[name]) for name, interval in found.best.settings.items()},
    }
    if found.difference and found.dense and found.sparse:
        held["difference"] = inside(found.difference, true_loss(truth, found.dense) - true_loss(truth, found.sparse))
    return {
        "regret": loss - lowest,
        "regret_of_best_row": again - lowest,
        "error": found.best.expected.value - loss,
        "width": found.best.loss.high - found.best.loss.low,
        "held": held,
        "decay": best_decay_error(truth, found.best),
    }


def inside(interval: Any, value: float) -> bool:
    return bool(interval.low - 1e-9 * abs(value) <= value <= interval.high + 1e-9 * abs(value))


def best_decay_error(truth: Truth, choice: Choice) -> float:
    """|ln| of the advised weight decay over the best one of that run (other settings as
    advised).
    """
    grid = np.geomspace(0.05, 20.0, 4000)
    point = choice.point(UNIQUE).take(np.zeros(4000, dtype=int))
    others = {name: np.full(4000, interval.value) for name, interval in choice.settings.items()}
    best = grid[truth.loss(point, others | {"weight_decay": grid}).argmin()]
    return float(abs(np.log(choice.settings["weight_decay"].value / best)))


def summary(told: list[dict[str, Any]]) -> dict[str, Any]:
    def column(name: str) -> Array:
        return np.array([one[name] for one in told])

    held = {name: [one["held"][name] for one in told if name in one["held"]] for name in told[0]["held"]}
    return {
        "answers": len(told),
        "regret": quantiles(column("regret")),
        "regret_of_best_row": quantiles(column("regret_of_best_row")),
        "worse_than_best_row": float(np.mean(column("regret") > column("regret_of_best_row") + 1e-9)),
        "bias": float(column("error").mean()),
        "width_of_run_interval": float(np.median(column("width"))),
        "coverage": {name: float(np.mean(values)) for name, values in held.items()},
        "decay_within_1.5": float(np.mean(column("decay") < np.log(1.5))),
    }


def quantiles(values: Array) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "mean": float(values.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=30, help="tables of each truth and size")
    parser.add_argument("--rows", type=int, nargs="+", default=[24, 48], help="rows a table")
    parser.add_argument("--draws", type=int, default=130, help="functions drawn for an answer")
    parser.add_argument("--first", type=int, default=FIRST, help="seed of the first table")
    parser.add_argument("--output", type=Path, default=RESULTS / "analysis_settings.json")
    options = parser.parse_args()
    began, cases, everything = time.time(), {}, []
    for truth in TRUTHS:
        for rows in options.rows:
            told = [
                one
                for table in range(options.tables)
                for one in trial(truth, rows, options.first + table, options.draws)
            ]
            everything += told
            for budget in BUDGETS:
                name = f"{truth.name}, {rows} rows, {budget} budget"
                cases[name] = summary([one for one in told if one["budget"] == budget])
                print(name, dumps(cases[name]), file=sys.stderr, flush=True)
    value = {
        "command": f"python benchmarks/analysis_settings.py --tables {options.tables}",
        "noise": NOISE,
        "first_seed": options.first,
        "python": platform.python_version(),
        "seconds": time.time() - began,
        "all": summary(everything),
        "cases": cases,
    }
    options.output.write_text(dumps(value) + "\n")
    print(dumps(value["all"]))


if __name__ == "__main__":
    main()
