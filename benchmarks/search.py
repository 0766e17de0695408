"""FLOPs that a search spends until its answer is near the best under the cap, for every sampler.

The planner is asked as a sweep asks it; training is looked up in a truth (`search_truth`: the
published law, over-fitting that decay removes, a learning rate, noise .02). The answer so far is
read in two ways: the best row, and the least expected loss of our model of all rows, so that the
choice of trials and the reading of them are told apart. Its regret is judged without noise, in nats
above the best trial under the cap. Writes `search.json` after every seed; run `python -m
benchmarks.search --seeds 20`. With `--lookup` trials are looked up in `decay.csv` instead (real
ones: size, density, epochs, weight decay), under a budget of `--caps` of its dearest trial, and
`search_lookup.json` is written; there a loss without noise is the mean over seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.search_truth import Measured, Simulated, loss
from raysparse import counts
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.planners import law
from raysparse.sweep.planners.base import Known, Purse
from raysparse.sweep.planners.candidates import points_of
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Space

UNIQUE, NOISE = 100_000_000, 0.02
RECIPE = Recipe(vocab_size=32_000, context=256, evaluations=1, optimizer=OptimizerSpec(batch_sequences=512))
AXES = (
    "size=dc-20m,dc-40m,dc-60m,dc-120m,dc-240m,dc-480m", "density=1,0.5,0.25,0.125", "epochs=2..64",
    "weight_decay=0.1..10", "lr=0.25..4",
)  # fmt: skip
SAMPLERS = ("random", "tpe", "gp", "law")
WITHIN = (0.01, 0.05, 0.1)  # nats
MARKS = (1, 2, 3, 4)  # caps spent, at which regret is noted
NAN_FREE = 9.0  # regret of a search that has no answer yet


def price(spec: TrialSpec) -> float:
    return counts.flops(spec)[1]


def best_under(space: Space, cap: float) -> float:
    """The least expected loss under the cap, by a fine grid of every axis."""
    decay, rate = (a.ravel() for a in np.meshgrid(np.geomspace(0.1, 10, 60), np.geomspace(0.25, 4, 30)))
    found = math.inf
    for size, density in itertools.product(space.axes[0].choices, space.axes[1].choices):
        one = RECIPE.spec(size, density, UNIQUE, 2)
        longest = min(64.0, 2 * cap / price(one))
        for epochs in np.geomspace(2, longest, 60) if longest > 2 else ():
            point = points_of([RECIPE.spec(size, density, UNIQUE, float(epochs))])
            found = min(found, float(loss(point.take(np.zeros(len(decay), dtype=int)), decay, rate).min()))
    return found


@dataclass
class Course:
    """Regret of both answers after every trial, with what was spent until then, in caps."""

    spent: list[float]
    row: list[float]
    model: list[float]

    def until(self, name: str, within: float) -> float:
        """Caps spent when the regret is first within; infinite if it never is."""
        return next((s for s, r in zip(self.spent, getattr(self, name), strict=True) if r <= within), math.inf)

    def at(self, name: str, spent: float) -> float:
        reached = [r for s, r in zip(self.spent, getattr(self, name), strict=True) if s <= spent]
        return reached[-1] if reached else NAN_FREE


def course(planner: Search, truth: Simulated | Measured, best: float, cap: float, budget: float) -> Course:
    """One search to the end of its budget."""
    known: list[Known] = []
    left, found = budget, Course([], [], [])
    while asked := planner.ask(known, Purse(left, price)):
        known.append(truth.known(asked[0]))
        left -= price(asked[0])
        known.sort(key=lambda trial: trial.spec.trial_id)
        lowest = min(known, key=lambda trial: trial.loss or math.inf).spec
        modelled = law.answer(planner.maker, known, price, largest=cap, seed=planner.seed)
        found.spent.append((budget - left) / cap)
        found.row.append(float(truth.expected([lowest])[0]) - best)
        found.model.append(NAN_FREE if modelled is None else float(truth.expected([modelled])[0]) - best)
    return found


def quartiles(values: list[float]) -> list[float | None]:
    """25, 50 and 75 %; None where that many searches never came so near."""
    ordered = np.quantile(values, (0.25, 0.5, 0.75), method="higher")
    return [float(v) if math.isfinite(v) else None for v in ordered]


def summary(sampler: str, reading: str, courses: list[Course]) -> dict[str, Any]:
    """A row: caps until within, and regret at the marks, quartiles over seeds."""
    row: dict[str, Any] = {"sampler": sampler, "answer": reading, "seeds": len(courses)}
    row["trials"] = float(np.median([len(c.spent) for c in courses]))
    row |= {f"caps_until_{w:g}": quartiles([c.until(reading, w) for c in courses]) for w in WITHIN}
    return row | {f"regret_at_{m}_caps": quartiles([c.at(reading, m) for c in courses]) for m in MARKS}


@dataclass
class Question:
    """What is searched: planner(sampler, seed), truth(seed), best loss, price of the cap."""

    recipe: Recipe
    space: Space
    unique: int
    cap: float
    best: float
    table: Measured | None = None

    def planner(self, sampler: str, seed: int) -> Search:
        asked = Search(recipe=self.recipe, space=self.space, unique_tokens=self.unique, largest=self.cap)
        return asked.replace(sampler=sampler, seed=seed)

    def truth(self, seed: int) -> Simulated | Measured:
        return self.table or Simulated(NOISE, seed)


def simulated() -> Question:
    space = Space.parse(AXES, RECIPE.vocab_size)
    cap = price(RECIPE.spec("dc-240m", 1.0, UNIQUE, 8))
    return Question(RECIPE, space, UNIQUE, cap, best_under(space, cap))


def lookup() -> Question:
    table = Measured.read(record.RESULTS.parent / "data" / "decay.csv")
    recipe = Recipe(
        vocab_size=257, context=128, evaluations=4, optimizer=OptimizerSpec(batch_sequences=4),
        data=DataSpec(validation_tokens=32_768), sparsity=SparsitySpec(update_every=20),
    )  # fmt: skip
    levels = [",".join(f"{v:g}" if isinstance(v, float) else v for v in axis) for axis in table.axes()]
    names = ("size", "density", "epochs", "weight_decay")
    space = Space.parse([f"{n}={v}" for n, v in zip(names, levels, strict=True)], recipe.vocab_size)
    specs = [
        recipe.spec(size, density, 50_000, epochs, settings={"optimizer.weight_decay": decay})
        for size, density, epochs, decay in table.rows
    ]
    return Question(recipe, space, 50_000, max(map(price, specs)), float(table.expected(specs).min()), table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each sampler (%(default)s)")
    parser.add_argument("--caps", type=float, default=5.0, help="the budget, in prices of the largest trial")
    parser.add_argument("--lookup", action="store_true", help="real trials instead of the simulated ones")
    args = parser.parse_args()
    asked = lookup() if args.lookup else simulated()
    fixed = {"cap_flops": asked.cap, "budget_caps": args.caps, "best_loss": asked.best}
    courses: dict[str, list[Course]] = {sampler: [] for sampler in SAMPLERS}
    for seed, sampler in itertools.product(range(args.seeds), SAMPLERS):
        planner = asked.planner(sampler, seed)
        courses[sampler].append(course(planner, asked.truth(seed), asked.best, asked.cap, args.caps * asked.cap))
        rows = [fixed | summary(s, reading, c) for s, c in courses.items() if c for reading in ("row", "model")]
        record.save("search_lookup" if args.lookup else "search", rows)
        last = [round(courses[sampler][-1].at(reading, args.caps), 3) for reading in ("row", "model")]
        print(seed, sampler, last, flush=True)


if __name__ == "__main__":
    main()
