"""Run, fit, design, run: the next trials are those that narrow the answer most per FLOP.

First a grid. Then, whenever nothing runs, the law is fitted to all rows and `analysis` designs a
batch for the optimum at the asked budget; the sweep ends when the answer's standard deviation is
small enough, when no trial within the budget helps, or when the budget is spent. What it narrows
is `Design.target`: the optimal density, or its advantage where every draw agrees on the density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raysparse import counts, ladder
from raysparse.record import require
from raysparse.spec import DataSpec, TrialSpec
from raysparse.sweep.planners.base import RUNNING, Known, Planner, Purse
from raysparse.sweep.planners.candidates import table_of
from raysparse.sweep.planners.recipe import Recipe

BOOTSTRAPS = 200  # draws of the fit, whose joint spread a design is made of
SEEDS = 8  # replicates of one point, at most


@dataclass(frozen=True, kw_only=True)
class Adaptive(Planner):
    """start: the first trials. compute, unique_tokens: the question, in active FLOPs and tokens.

    batch: trials designed at a time. narrow: the standard deviation, in logarithms, at which the
    answer is narrow enough. settings: (dotted field, value) pairs that all trials share.
    """

    recipe: Recipe
    start: tuple[TrialSpec, ...]
    compute: float
    unique_tokens: int
    batch: int = 4
    narrow: float = 0.1
    settings: tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        require(len(self.start) >= 1, "adaptive.start", self.start, "at least one trial")
        least = min(counts.flops(spec)[0] for spec in self.start)
        require(
            self.compute >= least, "adaptive.compute", self.compute,
            f"at least the {least:.3g} active FLOPs of the cheapest first trial, for the answer lies among such trials",
        )  # fmt: skip
        require(self.batch >= 1, "adaptive.batch", self.batch, "at least 1 trial")
        require(self.narrow > 0, "adaptive.narrow", self.narrow, "a positive standard deviation")

    def data(self) -> Sequence[DataSpec]:
        return [spec.data for spec in self.start]

    def question(self) -> tuple[str, ...]:
        return (
            f"then trials designed to narrow the answer at {self.compute:.3g} active FLOPs and "
            f"{self.unique_tokens:,} unique tokens, {self.batch} at a time, to an sd of {self.narrow:g}",
        )

    def ask(self, known: Sequence[Known], purse: Purse) -> Sequence[TrialSpec]:
        if any(trial.status == RUNNING for trial in known):
            return []
        done = {trial.spec.trial_id for trial in known}
        first = [spec for spec in self.start if spec.trial_id not in done]
        return _within(first or self._designed(known), done, purse)

    def _designed(self, known: Sequence[Known]) -> list[TrialSpec]:
        import numpy as np

        from analysis.answer.costs import measured_cost
        from analysis.answer.design import TooDearError, candidates_in, design
        from analysis.answer.optimum import Box
        from analysis.data.table import read_table
        from analysis.fit import fit
        from analysis.fit.intervals import bootstrap
        from analysis.fit.select import choose_law

        runs = read_table(table_of(known))
        fitted = fit(choose_law(runs, self.seed), runs, seed=self.seed)
        draws = bootstrap(fitted, BOOTSTRAPS, self.seed)
        cost, box = measured_cost(runs, "flops_active"), Box.of(runs)
        try:
            candidates = candidates_in(box, np.unique(runs.points.unique).tolist(), cost=cost, most=self.compute)
        except TooDearError:  # hardly more than the cheapest first trial
            return []
        unique = float(self.unique_tokens)
        found = design(draws, candidates, self.batch, budget=self.compute, unique=unique, box=box, cost=cost)
        return [] if found.sd[0] <= self.narrow else [self.trial(point) for point in found.plan()]

    def trial(self, point: dict[str, Any]) -> TrialSpec:
        """The trial of a point of `analysis`: active weights, density, unique tokens, epochs."""
        shape = ladder.shape_near(
            point["active"], point["density"], vocab_size=self.recipe.vocab_size, context=self.recipe.context
        )
        settings = dict(self.settings)
        return self.recipe.spec(shape, point["density"], point["unique_tokens"], point["epochs"], settings=settings)


def _within(specs: Sequence[TrialSpec], done: set[str], purse: Purse) -> list[TrialSpec]:
    """Those that the purse holds, one after another; a trial that is known already gets a seed that
    is not, which makes it a replicate.
    """
    chosen: list[TrialSpec] = []
    left, taken = purse.remaining, set(done)
    for spec in specs:
        fresh = (spec.replace(seed=seed) for seed in range(spec.seed, spec.seed + SEEDS))
        one = next((other for other in fresh if other.trial_id not in taken), None)
        if one is not None and purse.price(one) <= left:
            chosen.append(one)
            taken.add(one.trial_id)
            left -= purse.price(one)
    return chosen
