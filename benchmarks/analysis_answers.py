"""Is the answer good when it is acted on? Regret and coverage over tables whose truth is known.

Nine kinds of truth, most of them no law of ours, each with its own numbers drawn from the table's
seed; the plan is the default sweep's (3 sizes, 3 densities, 2 U, 3 epoch counts: 54 rows, noise
.01).
Regret is the true loss of the run that is printed minus the least true loss at a cost of at most
the budget, inside the table's box. Beside it stands the rule "train the best row again". Seeds from
10000 on were used while writing the analysis and are not those of the figures. Writes
results/analysis_answers.json; run `python benchmarks/analysis_answers.py --tables 60`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.answer.costs import ACTIVE
from analysis.answer.ensemble import ensemble
from analysis.answer.optimum import Box
from analysis.answer.recommend import Interval, recommend
from analysis.answer.simulate import grid
from analysis.data.files import write_json
from analysis.data.points import Array, Points
from analysis.data.table import Runs
from analysis.fit.intervals import bootstrap
from analysis.fit.select import candidates, pick
from analysis.laws import named

SHARES = (1.0, 1 / 4, 1 / 16)  # budgets, as shares of the dearest run's cost
NOISE = 0.01
DELTA = 1e-2
DRAWS = 60
FINE = (9, 49, 41)  # densities, epochs and sizes on which the true optimum is looked for
LAW = named("sparse_small_overfit")
Loss = Callable[[Points], Array]


@dataclass(frozen=True)
class Truth:
    """One true world. loss: (n,) expected nats per token; noise: (n,) sd of log loss."""

    loss: Loss
    noise: Callable[[Points], Array]
    outlier: bool = False


def flat(points: Points) -> Array:
    return np.full(len(points), NOISE)


def base(generator: np.random.Generator, **changes: float) -> Loss:
    """The law of plausible numbers, moved by some per cent."""
    values = {
        "ln_A": np.log(24.0),
        "ln_B": np.log(160.0),
        "ln_E": np.log(0.9),
        "alpha": 0.28,
        "beta": 0.42,
        "k": -0.25,
        "ln_R_D": np.log(5.0),
        "ln_K": -5.0,
        "q": 1.2,
        "r": 0.5,
    }
    moved = {name: value + 0.05 * generator.standard_normal() for name, value in values.items()} | changes
    moved |= {"alpha": 0.28 + 0.02 * generator.standard_normal(), "beta": 0.42 + 0.02 * generator.standard_normal()}
    theta = LAW.vector(moved)
    return lambda points: np.asarray(LAW.predict(theta, points))


def sizes(points: Points) -> Array:
    """Size in units of the middle of the plan, as a logarithm."""
    return np.asarray(points.log_active - np.log(2.5e5))


def interactions(generator: np.random.Generator) -> Truth:
    """Sparsity helps less the longer and the larger."""
    plain, turn = base(generator), 0.02 * generator.uniform(0.5, 1.5)

    def loss(p: Points) -> Array:
        bend = turn * (1 - p.density) * (np.log(p.epochs) - 1) * (1 + sizes(p))
        return np.asarray(plain(p) * (1 + bend))

    return Truth(loss, flat)


def periodic(generator: np.random.Generator) -> Truth:
    plain, phase = base(generator), generator.uniform(0, 2 * np.pi)
    return Truth(lambda p: plain(p) * (1 + 0.012 * np.sin(phase + 2.5 * p.log_active + 1.5 * p.log_tokens)), flat)


def noisy(generator: np.random.Generator) -> Truth:
    return Truth(base(generator), lambda p: NOISE * np.exp(0.5 * sizes(p)))


def mistuned(generator: np.random.Generator) -> Truth:
    plain, slope = base(generator), generator.uniform(0.02, 0.05)
    return Truth(lambda p: plain(p) + slope * np.maximum(sizes(p) + 0.5, 0) ** 2, flat)


def late(generator: np.random.Generator) -> Truth:
    plain, start = base(generator, ln_K=-12.0), generator.uniform(3.0, 5.0)
    return Truth(lambda p: plain(p) + 0.05 * np.maximum(p.epochs - start, 0) * np.exp(0.4 * sizes(p)), flat)


def coupled(generator: np.random.Generator) -> Truth:
    power = generator.uniform(0.7, 0.85)
    plain = base(generator)
    return Truth(lambda p: 0.9 + np.maximum(plain(p) - 0.9, 1e-3) ** power, flat)


def smooth(generator: np.random.Generator) -> Truth:
    """The law times a random smooth function of all coordinates, sd .03."""
    plain = base(generator)
    turns, phases = generator.standard_normal((64, 4)) * 0.6, generator.uniform(0, 2 * np.pi, 64)
    loads = generator.standard_normal(64) * np.sqrt(2 / 64) * 0.03

    def loss(p: Points) -> Array:
        where = np.stack([sizes(p), 2 * p.log_density, p.log_unique - 11.4, np.log(p.epochs) - 1], axis=-1)
        return np.asarray(plain(p) * np.exp(np.cos(where @ turns.T + phases) @ loads))

    return Truth(loss, flat)


TRUTHS: dict[str, Callable[[np.random.Generator], Truth]] = {
    "in the family": lambda g: Truth(base(g), flat),
    "interactions": interactions,
    "log-periodic": periodic,
    "noise grows with size": noisy,
    "one outlier": lambda g: Truth(base(g), flat, outlier=True),
    "large models mis-tuned": mistuned,
    "late over-fitting": late,
    "not additive": coupled,
    "smooth random": smooth,
}


def table(truth: Truth, generator: np.random.Generator) -> Runs:
    plan = grid([8e4, 2.9e5, 9.6e5], [1, 0.5, 0.25], [5e4, 1.5e5], [1, 3, 9])
    loss = truth.loss(plan) * np.exp(truth.noise(plan) * generator.standard_normal(len(plan)))
    if truth.outlier:
        loss[generator.integers(len(plan))] *= 1.15
    return Runs.from_arrays(plan.active, plan.density, plan.unique, plan.tokens, loss)


def best_possible(truth: Truth, box: Box, budget: float, unique: float) -> tuple[float, float, float]:
    """Least true loss within the budget, and its density and epochs.

    Sizes go from the box's least to what the budget leaves, so that the cap itself is looked at.
    """
    sides = (np.geomspace(*box.density, FINE[0]), np.geomspace(*box.epochs, FINE[1]), np.linspace(0, 1, FINE[2]))
    density, epochs, share = (axis.ravel() for axis in np.meshgrid(*sides))
    low, high = np.log(box.active)
    log_tokens = np.log(unique * epochs)
    top = np.minimum(high, ACTIVE.log_active(np.log(budget), log_tokens, np.log(density)))
    points = Points.at(np.exp(low + share * np.maximum(top - low, 0)), density, unique, unique * epochs)
    loss = np.where(ACTIVE.of(points) <= budget * (1 + 1e-9), truth.loss(points), np.inf)
    row = int(np.argmin(loss))
    return float(loss[row]), float(density[row]), float(epochs[row])


def holds(interval: Interval, value: float, slack: float = 0.0) -> bool:
    """slack: in logarithms, half a step of the grid of the truth."""
    return bool(interval.low * np.exp(-slack) <= value <= interval.high * np.exp(slack))


def one(name: str, seed: int) -> list[dict[str, object]]:
    generator = np.random.default_rng([seed, list(TRUTHS).index(name)])
    truth = TRUTHS[name](generator)
    runs = table(truth, generator)
    tried = candidates(runs, 0, DELTA)
    chosen = pick(tried)
    assert chosen is not None
    assert chosen.fit is not None
    fitted = chosen.fit
    laws, draws = ensemble(tried, DRAWS), bootstrap(fitted, DRAWS)
    box = Box.of(runs)
    rows: list[dict[str, object]] = []
    for unique in np.unique(runs.points.unique):
        dearest = float(ACTIVE.of(runs.points.take(runs.points.unique == unique)).max())
        for share in SHARES:
            budget = share * dearest
            least, density, epochs = best_possible(truth, box, budget, float(unique))
            for rule, extra in (("one law", None), ("ensemble", laws)):
                item = recommend(fitted, draws, budget, float(unique), box, laws=extra)
                where = Points.at(item.active.value, item.density.value, unique, unique * item.epochs.value)
                got = float(truth.loss(where)[0])
                row = item.rows[0]
                again = float(truth.loss(Points.at(row.active, row.density, unique, unique * row.epochs))[0])
                rows.append(
                    {
                        "truth": name,
                        "seed": seed,
                        "share": share,
                        "rule": rule,
                        "regret": got - least,
                        "best_row_regret": again - least,
                        "loss": holds(item.loss, got),
                        "density": holds(item.density, density, 0.5 * np.log(4) / (FINE[0] - 1)),
                        "epochs": holds(item.epochs, epochs, 0.5 * np.log(9) / (FINE[1] - 1)),
                    }
                )
    return rows


def summarise(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Regrets and coverage by rule and budget, over all truths, coverage also in the worst."""
    told: list[dict[str, object]] = []
    names = [name for name in TRUTHS if any(row["truth"] == name for row in rows)]
    for rule in ("one law", "ensemble"):
        for share in SHARES:
            some = [row for row in rows if row["rule"] == rule and row["share"] == share]
            regret, again = (np.array([row[key] for row in some], float) for key in ("regret", "best_row_regret"))
            entry: dict[str, object] = {
                "rule": rule,
                "budget_share": share,
                "answers": len(some),
                "regret_median": float(np.median(regret)),
                "regret_mean": float(regret.mean()),
                "regret_95th": float(np.quantile(regret, 0.95)),
                "best_row_mean": float(again.mean()),
                "worse_than_best_row": float(np.mean(regret > again + 1e-9)),
                "regret_mean_by_truth": {
                    name: float(np.mean([row["regret"] for row in some if row["truth"] == name])) for name in names
                },
            }
            for what in ("loss", "density", "epochs"):
                by_truth = [np.mean([row[what] for row in some if row["truth"] == name]) for name in names]
                entry[f"coverage_{what}"], entry[f"coverage_{what}_worst"] = np.mean(by_truth), min(by_truth)
            told.append(entry)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=60, help="tables per truth")
    parser.add_argument("--first", type=int, default=0, help="seed of the first table")
    parser.add_argument("--seconds", type=float, default=np.inf, help="no new seed is begun after this")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "analysis_answers.json")
    arguments = parser.parse_args()
    begun, rows = time.monotonic(), []
    for done in range(1, arguments.tables + 1):
        if time.monotonic() - begun > arguments.seconds:
            break
        for name in TRUTHS:
            rows += one(name, arguments.first + done - 1)
            print(f"{name}, table {done}, {time.monotonic() - begun:.0f} s", flush=True)
            write_json(arguments.output, report(rows))


def report(rows: list[dict[str, object]]) -> dict[str, object]:
    """What is kept: the figures, and how they were made."""
    return {
        "command": "python " + " ".join(["benchmarks/analysis_answers.py", *sys.argv[1:]]),
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "tables": {name: len({row["seed"] for row in rows if row["truth"] == name}) for name in TRUTHS},
        "draws": DRAWS,
        "noise": NOISE,
        "rows": summarise(rows),
    }


if __name__ == "__main__":
    main()
