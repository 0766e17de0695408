"""The best size, density, number of epochs and settings for a number of unique tokens, under a cap
on one trial and a budget for the search.

One trial is proposed at a time, by a named sampler (`samplers`, `law`), and none that the rest of
the budget cannot pay: what a sampler wishes beyond it is asked again, and in the end replaced by
the affordable trial nearest to its first wish. The search ends when not even the cheapest trial of
the space fits. Left out: the answer in words with its interval, which is `analysis`'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raysparse.record import require
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, TrialSpec
from raysparse.sweep.planners import law, samplers
from raysparse.sweep.planners.base import Known, Planner, Purse
from raysparse.sweep.planners.candidates import Maker, fresh, spread_trials
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.space import Space


@dataclass(frozen=True, kw_only=True)
class Search(Planner):
    """space: axes, among them size, density and epochs. largest: price of one trial at most, in the
    unit of the budget; None: whatever the budget pays. trials: how many at most; None: until the
    budget is spent.

    Raises ValueError for an unknown sampler and for a space that makes no whole trial.
    """

    recipe: Recipe
    space: Space
    unique_tokens: int
    sampler: str = samplers.LAW
    largest: float | None = None
    trials: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        samplers.check(self.sampler)
        self.space.require_points()
        require(self.unique_tokens >= 2, "search.unique_tokens", self.unique_tokens, "at least 2 tokens")
        require(self.largest is None or self.largest > 0, "search.largest", self.largest, "a positive price")
        require(self.trials is None or self.trials >= 1, "search.trials", self.trials, "at least 1 trial")

    @property
    def maker(self) -> Maker:
        return Maker(self.recipe, self.space, self.unique_tokens)

    def data(self) -> Sequence[DataSpec]:
        return [self.recipe.data.replace(unique_tokens=self.unique_tokens)]

    def question(self) -> tuple[str, ...]:
        end = "until the budget is spent" if self.trials is None else f"up to {self.trials} trials"
        axes = (f"  {axis.name + ':':<15}{axis.said}" for axis in self.space.axes)
        return f"then a search by sampler {self.sampler!r} over {self.unique_tokens:,} unique tokens, {end}:", *axes

    def mirror(self, folder: RunFolder, known: Sequence[Known], purse: Purse) -> None:
        """Into an Optuna study in the run folder."""
        from raysparse.sweep.planners import study

        study.mirror(folder, self.space, known, purse, largest=self.largest)

    def links(self, folder: RunFolder) -> tuple[str, ...]:
        from raysparse.sweep.planners import study

        return (f"study: {study.dashboard(folder)}",)

    def ask(self, known: Sequence[Known], purse: Purse) -> Sequence[TrialSpec]:
        """At most one trial. Raises ValueError for a search without an end, and for a budget below
        the cheapest trial.
        """
        if self.trials is None and math.isinf(purse.remaining):
            raise ValueError("a search needs an end: give the sweep a budget, or search.trials a number")
        if self.trials is not None and len(known) >= self.trials:
            return []
        known = sorted(known, key=lambda trial: trial.spec.trial_id)
        taken = {trial.spec.trial_id for trial in known}
        most = min(purse.remaining, math.inf if self.largest is None else self.largest)
        wishes = []
        for wish in self._wishes(known, purse):
            one = fresh(wish, taken)
            if one is not None and purse.price(one) <= most:
                return [one]
            wishes.append(wish)
        return self._instead(wishes, taken, most, known, purse)

    def _wishes(self, known: Sequence[Known], purse: Purse) -> Iterator[TrialSpec]:
        maker, largest = self.maker, math.inf if self.largest is None else self.largest
        if self.sampler == samplers.LAW:
            yield from law.rank(
                maker, known, purse, largest=largest, whole=self._whole(known, purse), seed=self.seed
            ).trials
            return
        for values in samplers.wishes(self.sampler, self.space, known, purse, largest=self.largest, seed=self.seed):
            made = maker.trial(values)
            if made is not None:
                yield made

    def _whole(self, known: Sequence[Known], purse: Purse) -> float:
        """The budget as it was at first, as far as prices tell; without one, what all trials would
        cost.
        """
        if math.isinf(purse.remaining):
            assert self.trials is not None
            prices = sorted(spread_trials(self.maker, self.seed).prices(purse))
            return float(self.trials * prices[len(prices) // 2])
        return purse.remaining + math.fsum(purse.price(trial.spec) for trial in known)

    def _instead(
        self, wishes: Sequence[TrialSpec], taken: set[str], most: float, known: Sequence[Known], purse: Purse
    ) -> Sequence[TrialSpec]:
        """The affordable trial nearest to the first wish; none when nothing is affordable."""
        trials = spread_trials(self.maker, self.seed).specs
        made = [fresh(spec, taken) for spec in trials if purse.price(spec) <= most]
        open_ = [spec for spec in made if spec is not None]
        if not open_:
            if not known:
                least = min(purse.price(spec) for spec in trials)
                raise ValueError(
                    f"the budget of {most:.3g} is below the cheapest trial of the space, {least:.3g}; "
                    f"raise it or widen the space"
                )
            return []
        if not wishes:
            return [min(open_, key=purse.price)]
        gaps = self.maker.places(open_) - self.maker.places(wishes[:1])
        return [open_[int(np.argmin(np.linalg.norm(gaps, axis=1)))]]
