"""Our sampler: the trial that improves the answer most per unit of cost, by a model of the loss.

The answer is the point of least expected loss among the trials under the cap. What a trial is worth
is how much lower that loss is expected to be once its own is known (`analysis.answer.gain`), so
that a cheap trial counts for what it teaches about a large one. The model (`analysis.answer.
surrogate`) reads every row of the folder. The first trials fill the space, cheap ones first,
and take at most `DESIGN_SHARE` of the budget. Towards its end the price of the answer is kept back
until the answer itself, or what is as good, has been trained. Left out: checking the space, and
what happens when nothing fits (`search`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer.gain import Question, believing, expected, gains
from analysis.answer.surrogate import LEAST_ROWS, surrogate
from analysis.data.points import Array, Points
from analysis.data.table import read_table
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.base import RUNNING, Known, Purse
from raysparse.sweep.planners.candidates import (
    Maker,
    Trials,
    columns_of,
    points_of,
    spread_trials,
    table_of,
)

JUST_BELOW = 0.99  # of the cap: whole steps and three digits must not exceed it
DESIGN_SHARE = 0.15  # of the budget, for the first trials
SPAN = 0.5  # of every axis, that rows reach over before the model is asked
MORE_THAN_AXES = 3  # first trials beside one an axis
BEST = 12  # points of least expected loss, around which more candidates are made ...
NEAR = (0.2, 0.1, 0.05, 0.02)  # ... at these distances, as shares of the cube
START = 0.2  # of the cap: what a trial counts for beside its own price
SAME = 0.005  # nats: a trained point this near to the answer is as good as it
REACH = 0.15  # of the cube: how far the failure of a trial is believed to go


@dataclass(frozen=True)
class Ranked:
    """Trials to choose from, best first, and the answer as it stands."""

    trials: tuple[TrialSpec, ...]
    answer: TrialSpec | None = None


def rank(maker: Maker, known: Sequence[Known], purse: Purse, *, largest: float, whole: float, seed: int) -> Ranked:
    """The trials that may be run next, the most useful first; those that fail their price are
    among them and left to the caller.

    largest: price of one trial at most. whole: the budget when nothing was spent.
    """
    ended = [trial for trial in known if trial.loss is not None and trial.row is not None]
    first = max(LEAST_ROWS, len(maker.space.free) + MORE_THAN_AXES)
    if len(ended) < LEAST_ROWS or len(known) < first:
        return Ranked(design(maker, known, purse, count=first, most=min(largest, whole), whole=whole, seed=seed))
    wider = widening(maker, ended, purse, most=min(largest, purse.remaining), seed=seed)
    return Ranked(wider) if wider else _Search(maker, known, purse, largest, seed).ranked()


def widening(maker: Maker, ended: Sequence[Known], purse: Purse, *, most: float, seed: int) -> tuple[TrialSpec, ...]:
    """Trials, cheapest first, that widen an axis on which the rows so far reach less than `SPAN`;
    none when every axis is wide enough, or when none of them can be paid.

    Cheap first trials are short ones, and a model that has seen one length knows nothing of others:
    it would never ask for a longer run.
    """
    there = np.array([place for trial in ended if (place := maker.place(trial.spec)) is not None])
    if not len(there):
        return ()
    trials = spread_trials(maker, seed)
    low, high = np.minimum(trials.places, there.min(axis=0)), np.maximum(trials.places, there.max(axis=0))
    narrow = np.ptp(there, axis=0) < SPAN
    prices = trials.prices(purse)
    widens = ((high - low)[:, narrow] >= SPAN).any(axis=1) & (prices <= most)
    return tuple(trials.specs[i] for i in np.argsort(prices, kind="stable") if widens[i])


def design(
    maker: Maker, known: Sequence[Known], purse: Purse, *, count: int, most: float, whole: float, seed: int
) -> tuple[TrialSpec, ...]:
    """First trials: each the farthest from all others that its allowance pays. Allowances grow
    evenly, so the first trials are cheap, and are `DESIGN_SHARE` of the budget together.
    """
    trials = spread_trials(maker, seed)
    prices = trials.prices(purse)
    allowance = 2 * (len(known) + 1) / (count * (count + 1)) * DESIGN_SHARE * whole
    allowed = prices <= max(min(allowance, most), prices.min())
    there = [place for trial in known if (place := maker.place(trial.spec)) is not None]
    if there:
        apart = np.linalg.norm(trials.places[:, None] - np.array(there)[None], axis=2).min(axis=1)
    else:
        apart = -np.linalg.norm(trials.places - 0.5, axis=1)  # the middle is the least surprising
    order = np.lexsort([prices, -apart, ~allowed])
    return tuple(trials.specs[i] for i in order)


class _Search:
    """One question to the model: everything that a ranking needs, worked out once."""

    def __init__(self, maker: Maker, known: Sequence[Known], purse: Purse, largest: float, seed: int):
        self.maker, self.known, self.purse, self.largest, self.seed = maker, known, purse, largest, seed
        self.model = surrogate(read_table(table_of(known)), seed=seed)
        running = [trial.spec for trial in known if trial.status == RUNNING]
        self.processes = self.model.processes
        if running:
            self.processes = believing(self.model, self.columns(points_of(running), running))
        tried = [t.spec for t in known if t.status in (RUNNING, "completed") and maker.place(t.spec) is not None]
        self.tried = Trials.of(maker, tried)
        self.trials = self._candidates()
        self.specs, self.prices = self.trials.specs, self.trials.prices(purse)
        self.at = self.columns(self.trials.points, self.specs)
        self.mean = expected(self.model, self.processes, self.at)

    def columns(self, points: Points, specs: Sequence[TrialSpec]) -> Array:
        """(n, p) columns of the model."""
        return columns_of(self.model, points, specs)

    def _candidates(self) -> Trials:
        """What was run, the spread of the space, and trials around its best points."""
        found = self.tried + spread_trials(self.maker, self.seed)
        fits = found.prices(self.purse) <= self.largest
        mean = np.where(fits, self._expected(found), np.inf)
        order = np.argsort(mean, kind="stable")
        best = found.places[order[:BEST]]
        generator = np.random.default_rng([self.seed, len(self.known)])
        moved = [best + width * generator.standard_normal(best.shape) for width in NEAR]
        near = self.maker.trials(np.clip(np.concatenate(moved), 0.0, 1.0 - 1e-9))
        near += self.maker.trials(self._at_the_cap([*(found.specs[i] for i in order[:BEST]), *near]))
        return found + Trials.of(self.maker, near) if near else found

    def _expected(self, trials: Trials) -> Array:
        return expected(self.model, self.processes, self.columns(trials.points, trials.specs))

    def _at_the_cap(self, specs: Sequence[TrialSpec]) -> list[list[float]]:
        """Places of the same trials with as many epochs as the cap pays, where the best ones often
        lie.
        """
        space = self.maker.space
        if math.isinf(self.largest) or not any(axis.name == "epochs" for axis in space.free):
            return []
        found = []
        for spec in specs:
            values = space.values_of(spec)
            longest = JUST_BELOW * values["epochs"] * self.largest / self.purse.price(spec)
            units = space.units({**values, "epochs": longest})
            if units is not None:
                found.append(units)
        return found

    def ranked(self) -> Ranked:
        under = np.flatnonzero(self.prices <= self.largest)
        if not len(under):
            return Ranked(())
        answer = int(under[np.argmin(self.mean[under])])
        worth = gains(self.model, self.processes, self.at, Question.one(self.at[under]))[0] * self._survival()
        spare = self.purse.remaining - self._kept_back(answer)
        score = np.where(self.prices <= min(spare, self.largest), worth / (self.prices + self._start()), 0.0)
        order = np.argsort(-score, kind="stable")
        return Ranked((*(self.specs[i] for i in order if score[i] > 0), self.specs[answer]), self.specs[answer])

    def _start(self) -> float:
        """What a trial costs beside its own price: it takes a slot and a row of the model, so
        hundreds of tiny ones are no bargain.
        """
        return START * min(self.largest, float(self.prices.max()))

    def _kept_back(self, answer: int) -> float:
        """The price of the answer while neither it nor its equal has been trained."""
        tried = slice(0, len(self.tried))
        equal = (self.mean[tried] <= self.mean[answer] + SAME) & (self.prices[tried] <= self.largest)
        return 0.0 if equal.any() else float(self.prices[answer])

    def _survival(self) -> Array:
        """(m,) the chance that a candidate ends with a loss: trials near one that diverged, was
        stopped or did not fit into memory share its fate.
        """
        places = [(self.maker.place(t.spec), t.loss is not None) for t in self.known if t.status != RUNNING]
        inside = [(place, good) for place, good in places if place is not None]
        if all(good for _, good in inside):
            return np.ones(len(self.trials))
        gaps = np.linalg.norm(self.trials.places[:, None] - np.array([place for place, _ in inside])[None], axis=2)
        weight = np.exp(-0.5 * (gaps / REACH) ** 2)
        good = np.array([good for _, good in inside])
        return np.asarray((1 + weight[:, good].sum(axis=1)) / (1 + weight.sum(axis=1)))


def answer(
    maker: Maker, known: Sequence[Known], price: Callable[[TrialSpec], float], *, largest: float, seed: int = 0
) -> TrialSpec | None:
    """The trial of least expected loss under the cap; None while there are fewer than five rows, or
    when nothing is under the cap.
    """
    if sum(trial.loss is not None for trial in known) < LEAST_ROWS:
        return None
    asked = _Search(maker, known, Purse(math.inf, price), largest, seed)
    under = np.flatnonzero(asked.prices <= largest)
    return asked.specs[int(under[np.argmin(asked.mean[under])])] if len(under) else None
