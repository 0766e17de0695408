"""Which law extrapolates: fit below, test above, and say by how much each law misses.

A law is judged on rows that lie beyond what it was fitted to: the costliest, the longest repeated,
the sparsest, the largest. For each split and law the table has the held-out error and whether its
intervals held. The choice is by held-out error relative to the split's median law, averaged over
the splits a law could take; R2 on the fit plays no part. `judge` does the same with a separate
table and, if wanted, a prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis.answer.costs import ACTIVE, Cost
from analysis.beside import ALONE, Alone
from analysis.data.points import Array
from analysis.data.table import Runs
from analysis.fit.intervals import bootstrap
from analysis.fit.joint import fit
from analysis.fit.problem import DELTA, Prior
from analysis.fit.select import LADDER, lacking, level_of, levels, unsuited
from analysis.laws import LAWS, Law

STARTS = 16  # descents per hold-out fit: many fits, none of which is reported
FRESH = 3  # ... and starts of each draw's refit beside the fit's minima
STEPS = 200  # ... of it at most: intervals of new runs hold the same rows as after 600 (docs/experiments.md)
SHARE = 0.2  # of the rows is held out by compute


@dataclass(frozen=True)
class Trial:
    """One law on one split. rmse: held-out, nats/token; coverage: share of held-out runs inside
    their 95 % prediction interval; bias: mean of predicted - measured, nats. lacking: why it was
    not tried.
    """

    law: str
    split: str
    held_out: int
    rmse: float = float("nan")
    coverage: float = float("nan")
    bias: float = float("nan")
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """trials: every law on every split. scores: law -> geometric mean, over the splits it took, of
    its held-out error divided by the split's median error (below 1 is better than most). chosen:
    the best law's name, or None if no law could be tried. why: one sentence.
    """

    trials: tuple[Trial, ...]
    scores: Mapping[str, float]
    chosen: str | None
    why: str

    def trial(self, law: str, split: str) -> Trial:
        return next(trial for trial in self.trials if trial.law == law and trial.split == split)


def splits(runs: Runs, cost: Cost = ACTIVE) -> dict[str, Array]:
    """Name -> (n,) mask of held-out rows; a split that would hold out nothing or everything is
    absent.

    compute: the costliest fifth. epochs, sparsity, size: the rows at the largest epoch count,
    smallest density, largest N at that density. Replicates are held out together, because they
    share their coordinates.
    """
    points = runs.points
    spent = cost.of(points)
    largest = np.zeros(len(runs), dtype=bool)
    alike = level_of(points.density)
    for density in np.unique(alike):
        at = alike == density
        largest |= at & (points.active >= points.active[at].max() * (1 - 1e-9))
    masks = {
        "compute": spent > np.quantile(spent, 1 - SHARE),
        "epochs": points.epochs >= points.epochs.max() / 1.1,  # 7.94 and 7.98 are both eight
        "sparsity": alike == alike.min(),
        "size": largest,
    }
    constant = {"epochs": levels(points.epochs) == 1, "sparsity": levels(points.density) == 1}
    return {name: mask for name, mask in masks.items() if not constant.get(name) and 0 < mask.sum() <= len(runs) // 2}


def compare(
    runs: Runs, laws: Iterable[str | Law] | None = None, *, delta: float = DELTA, draws: int = 60, seed: int = 0
) -> Comparison:
    """`begin` and its result."""
    return begin(runs, laws, delta=delta, draws=draws, seed=seed)()


def begin(
    runs: Runs,
    laws: Iterable[str | Law] | None = None,
    *,
    delta: float = DELTA,
    draws: int = 60,
    seed: int = 0,
    beside: Alone = ALONE,
) -> Callable[[], Comparison]:
    """Try laws (default: those of the ladder that suit the table) on every split of `runs`.

    A law that does not suit the table, or that a split's remaining rows cannot carry, is listed
    with why, and is not an error.
    """
    contenders = [law if isinstance(law, Law) else LAWS[law] for law in laws or LADDER]
    if not laws:
        contenders = [law for law in contenders if not unsuited(law, runs)]
    tried = [(law, split, held) for split, held in splits(runs).items() for law in contenders]
    trials = beside.begin_each(partial(_try, runs, delta, draws, seed), *zip(*tried, strict=True))
    return lambda: _choose(trials())


def _try(runs: Runs, delta: float, draws: int, seed: int, law: Law, split: str, held: Array) -> Trial:
    missing = unsuited(law, runs) or lacking(law, runs.take(~held))
    if missing:
        return Trial(law.name, split, int(held.sum()), lacking=missing)
    return judge(law, runs.take(~held), runs.take(held), split=split, delta=delta, draws=draws, seed=seed)


def judge(
    law: Law,
    fitted_to: Runs,
    held_out: Runs,
    *,
    split: str = "separate table",
    prior: Prior | None = None,
    delta: float = DELTA,
    draws: int = 60,
    seed: int = 0,
) -> Trial:
    """Fit to one table, judge on another."""
    fitted = fit(law, fitted_to, prior=prior, delta=delta, starts=STARTS, seed=seed)
    sample = bootstrap(fitted, draws, seed, fresh=FRESH, steps=STEPS)
    predicted = fitted.predict(held_out.points)
    low, high = sample.predict_run(held_out.points)
    error = predicted - held_out.loss
    return Trial(
        law.name,
        split,
        len(held_out),
        float(np.sqrt(np.mean(error**2))),
        float(np.mean((low <= held_out.loss) & (held_out.loss <= high))),
        float(error.mean()),
    )


def _choose(trials: list[Trial]) -> Comparison:
    """Laws that took at least half of the splits contend; fewer would reward avoiding the hard
    ones.
    """
    errors: dict[str, dict[str, float]] = {}  # split -> law -> held-out error
    for trial in trials:
        if not trial.lacking:
            errors.setdefault(trial.split, {})[trial.law] = max(trial.rmse, 1e-12)
    relative: dict[str, list[float]] = {}
    for by_law in errors.values():
        middle = float(np.median(list(by_law.values())))
        for law, error in by_law.items():
            relative.setdefault(law, []).append(np.log(error / middle))
    scores = {law: float(np.exp(np.mean(logs))) for law, logs in relative.items() if 2 * len(logs) >= len(errors)}
    if not scores:
        return Comparison(tuple(trials), {}, None, "no law could be tried on any hold-out")
    order = sorted(scores, key=lambda law: (scores[law], len(LAWS[law].names) if law in LAWS else 0))
    best = order[0]
    why = (
        f"{best} misses held-out runs by {scores[best]:.2f} of the median law, over "
        f"{len(relative[best])} of {len(errors)} splits"
    )
    if len(order) > 1:
        why += f"; next is {order[1]} with {scores[order[1]]:.2f}"
    return Comparison(tuple(trials), scores, best, why)
