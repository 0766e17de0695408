"""FLOPs that a search spends until its answer is near the best under the cap, for every sampler.

The planner is asked as a sweep asks it; training is looked up in a truth (`search_truth`: the
published law, over-fitting that decay removes, a learning rate, noise .02). The answer so far is
read in two ways: the best row, and the least expected loss of our model of all rows, so that the
choice of trials and the reading of them are told apart. Its regret is judged without noise, in nats
above the best trial under the cap. Writes results/search.json after every seed; run `python
benchmarks/search.py --seeds 20`.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.search_truth import Simulated, loss
from raysparse import counts
from raysparse.spec import OptimizerSpec, TrialSpec
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


def course(planner: Search, truth: Simulated, best: float, cap: float, budget: float) -> Course:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="searches of each sampler (%(default)s)")
    parser.add_argument("--caps", type=float, default=5.0, help="the budget, in prices of the largest trial")
    args = parser.parse_args()
    space = Space.parse(AXES, RECIPE.vocab_size)
    cap = price(RECIPE.spec("dc-240m", 1.0, UNIQUE, 8))
    best = best_under(space, cap)
    courses: dict[str, list[Course]] = {sampler: [] for sampler in SAMPLERS}
    for seed, sampler in itertools.product(range(args.seeds), SAMPLERS):
        planner = Search(
            recipe=RECIPE, space=space, unique_tokens=UNIQUE, sampler=sampler, largest=cap, seed=seed
        )  # fmt: skip
        courses[sampler].append(course(planner, Simulated(NOISE, seed), best, cap, args.caps * cap))
        rows = [summary(s, reading, c) for s, c in courses.items() if c for reading in ("row", "model")]
        record.save("search", [{"cap_flops": cap, "budget_caps": args.caps, "best_loss": best, **r} for r in rows])
        print(
            seed,
            sampler,
            rows[-1]["seeds"],
            [round(courses[sampler][-1].at(r, args.caps), 3) for r in ("row", "model")],
            flush=True,
        )


if __name__ == "__main__":
    main()
