"""Trials until the settings of nine points are good, when points learn from each other and when
each is tuned alone.

The points are a Latin square of three sizes, densities and numbers of epochs, so no two share more
than one of them; weight decay and learning rate are tuned. Trials are looked up in a truth
(`search_truth`, noise .02). The answer of a point is what `Tune.answers` names, or the best row
while there are too few for that; it is judged without noise, in nats above the best settings that
the point has. Counted: a point's own trials until it is within .02 for good, and the trials of all
points together until all are. Writes `tune.json` after every seed: `python -m benchmarks.tune`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.search import NOISE, RECIPE, UNIQUE, price, quartiles
from benchmarks.search_truth import Simulated, loss
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.base import Known, Purse
from raysparse.sweep.planners.candidates import points_of
from raysparse.sweep.planners.space import Space
from raysparse.sweep.planners.tune import Tune

SIZES, DENSITIES, EPOCHS = ("dc-40m", "dc-120m", "dc-240m"), (1.0, 0.5, 0.25), (4.0, 12.0, 36.0)
AXES = ("weight_decay=0.1..10", "lr=0.25..4")
WITHIN = 0.02  # nats
MISSED = 1.0  # regret of a point without a trial


def points() -> tuple[TrialSpec, ...]:
    """Nine, of which any two share at most one of size, density and epochs."""
    return tuple(RECIPE.spec(SIZES[i], DENSITIES[j], UNIQUE, EPOCHS[(i + j) % 3]) for i in range(3) for j in range(3))


def best_of(point: TrialSpec) -> float:
    """The least expected loss at any settings of the space."""
    decay, rate = (a.ravel() for a in np.meshgrid(np.geomspace(0.1, 10, 60), np.geomspace(0.25, 4, 30)))
    return float(loss(points_of([point]).take(np.zeros(len(decay), dtype=int)), decay, rate).min())


def regrets(planner: Tune, known: Sequence[Known], truth: Simulated) -> list[float]:
    """How far each point's answer is from its best settings."""
    answers = planner.answers(known, price)
    found = []
    for point, answer in zip(planner.points, answers, strict=True):
        own = [trial for trial in known if planner.key(trial.spec) == planner.key(point)]
        if answer is None and own:
            answer = min(own, key=lambda trial: trial.loss or math.inf).spec
        found.append(MISSED if answer is None else float(truth.expected([answer])[0]) - best_of(point))
    return found


def course(planner: Tune, truth: Simulated) -> list[tuple[int, list[float]]]:
    """After every trial: which point it was of, and the regret of all."""
    known: list[Known] = []
    found = []
    keys = [planner.key(point) for point in planner.points]
    while asked := planner.ask(known, Purse(math.inf, price)):
        known = sorted([*known, truth.known(asked[0])], key=lambda trial: trial.spec.trial_id)
        found.append((keys.index(planner.key(asked[0])), regrets(planner, known, truth)))
    return found


def settled(good: Sequence[bool]) -> int | None:
    """Index of the first of the unbroken run of true values at the end; None without one."""
    bad = [n for n, value in enumerate(good) if not value]
    first = bad[-1] + 1 if bad else 0
    return first if first < len(good) else None


def spent_by_point(steps: Sequence[tuple[int, list[float]]], count: int) -> list[float]:
    """Own trials of each point until it was within for good; infinite where it never was."""
    found = []
    for point in range(count):
        first = settled([regret[point] <= WITHIN for _, regret in steps])
        found.append(math.inf if first is None else float(sum(owner == point for owner, _ in steps[: first + 1])))
    return found


def together(seed: int) -> dict[str, Any]:
    """All points by one planner."""
    planner = Tune(points=points(), space=Space.parse(AXES, RECIPE.vocab_size), seed=seed)
    steps = course(planner, Simulated(NOISE, seed))
    first = settled([max(regret) <= WITHIN for _, regret in steps])
    all_within = math.inf if first is None else first + 1.0
    own = spent_by_point(steps, len(planner.points))
    return {"own": own, "all": all_within, "trials": len(steps), "regret": steps[-1][1]}


def alone(seed: int) -> dict[str, Any]:
    """A planner for each point: it is done when it is within, and all are when the last is."""
    own, trials, regret = [], 0, []
    for point in points():
        planner = Tune(points=(point,), space=Space.parse(AXES, RECIPE.vocab_size), seed=seed)
        steps = course(planner, Simulated(NOISE, seed))
        own += spent_by_point(steps, 1)
        trials += len(steps)
        regret += steps[-1][1]
    return {"own": own, "all": float(sum(own)), "trials": trials, "regret": regret}


def summary(name: str, courses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = [value for course in courses for value in course["own"]]
    regret = [value for course in courses for value in course["regret"]]
    return {
        "neighbours": name == "together",
        "seeds": len(courses),
        "trials_of_a_point_until_within": quartiles(own),
        "trials_until_all_within": quartiles([course["all"] for course in courses]),
        "points_within_at_the_end": float(np.mean([value <= WITHIN for value in regret])),
        "regret_at_the_end": quartiles(regret),
        "trials_at_the_end": float(np.median([course["trials"] for course in courses])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="tables of noise (%(default)s)")
    args = parser.parse_args()
    courses: dict[str, list[dict[str, Any]]] = {"together": [], "alone": []}
    for seed in range(args.seeds):
        courses["together"].append(together(seed))
        courses["alone"].append(alone(seed))
        record.save("tune", [{"within": WITHIN, "noise": NOISE} | summary(n, c) for n, c in courses.items()])
        print(seed, {name: (done[-1]["all"], done[-1]["trials"]) for name, done in courses.items()}, flush=True)


if __name__ == "__main__":
    main()
