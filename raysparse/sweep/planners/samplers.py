"""Samplers by name: Optuna's, asked on a study that is rebuilt from what is known, and `law`, ours.

Optuna's samplers know no price, so their wishes are taken as they come and the planner keeps the
first that it can pay. What a sampler draws depends on the seed and on how many trials are known,
and on nothing else: asked again with the same knowledge it wishes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raysparse.record import nearest
from raysparse.sweep.planners.base import Known, Purse
from raysparse.sweep.planners.space import Space

if TYPE_CHECKING:
    import optuna

LAW = "law"
NAMES = ("random", "tpe", "gp", "nsga2", LAW)
# Wishes before the planner stops asking: one of GP's costs a fit and an optimisation.
WISHES = {"random": 64, "tpe": 24, "gp": 4, "nsga2": 24}
STARTS = 10  # random trials before a model is fitted; Optuna's own default
POPULATION = 12  # of NSGA-II: its own 50 is more than a search of laptop models has trials


def check(name: str) -> None:
    """Raise ValueError for a sampler that does not exist, with the nearest one that does."""
    if name not in NAMES:
        raise ValueError(f"there is no sampler {name!r}{nearest(name, NAMES)}; samplers are {', '.join(NAMES)}")


def make(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler of Optuna. All count running trials as tried."""
    import optuna

    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTS)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTS)
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)


def wishes(
    name: str, space: Space, known: Sequence[Known], purse: Purse, *, largest: float | None, seed: int
) -> Iterator[dict[str, Any]]:
    """Values that a sampler of Optuna would try next, one after another."""
    from raysparse.sweep.planners import study

    draw = int(np.random.SeedSequence([seed, len(known)]).generate_state(1)[0] >> 1)
    aims = study.TWO if name == "nsga2" else study.ONE
    population = POPULATION if name == "nsga2" else None
    asked = study.in_memory(
        space, known, purse, sampler=make(name, draw), largest=largest, aims=aims, population=population
    )
    for _ in range(WISHES[name]):
        yield study.values_of(space, asked.ask(study.distributions(space)).params)
