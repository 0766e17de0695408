"""The model of the settings that laws guide: how size, sparsity, tokens and epochs act is theirs.

A smooth model of everything needs rows in every direction, and knows nothing beyond them; a law
knows how losses go on, and nothing of settings. So each is fitted to what the other leaves: the
laws to the points as if well set, by the model (`tuned_points`), and the model to the rows about
the laws, where only what settings do is free and the rest is what the laws miss. Two rounds: in the
first the model stands alone. A small table, or one that carries no law, has the model that a
planner has: on the 23 runs of a default sweep, with two settings, laws promised 2.06 nats at 1.5
times the largest size of that density, where the best run had measured 2.18.

One bad row bends a smooth model that has a few dozen. So the row that is farthest from what the
others say is looked at again, by a model that was made without it; where that one thinks it
impossible it stays aside, and the answer names it. A run far above the well-set ones is none: its
settings may have spoilt it, which is what a model must know. Limit: only where laws guide.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.answer.ensemble import ensemble
from analysis.answer.envelope import tuned_points
from analysis.answer.surrogate import DRAWS, Surrogate, surrogate, wide_surrogate
from analysis.beside import ALONE, Alone
from analysis.data.axes import Frame
from analysis.data.table import Runs
from analysis.fit.outliers import RARE
from analysis.fit.select import LADDER, candidates

DELTA = 1e-2  # Huber threshold of the fits, in log loss
ROUNDS = 2
LAW = 9  # numbers that a law takes from a table, about
EACH = 2  # rows for each number, at least, before laws guide
SUSPECT = 3.5  # sds from what the others say: the farthest row is looked at again ...
FAR = 5.5  # ... and is an outlier from here on, by a model without it (docs/experiments.md)
SPOILT = 1.4  # times the loss of a well-set run, and above: no outlier


def guided(runs: Runs, *, seed: int = 0, beside: Alone = ALONE) -> Surrogate:
    """The model of `runs`; `Surrogate.guided` says whether laws guide it, and `Surrogate.aside` has
    the outliers, of which there are no more than a share `RARE` of the rows (or one).

    Raises ValueError for fewer rows than `surrogate` needs.
    """
    model, kept = _model(runs, seed, beside), np.arange(len(runs))
    while len(runs) - len(kept) < max(1, int(RARE * len(runs))):
        row = _suspect(model)
        if row is None:
            break
        rest = np.delete(kept, row)
        without = _model(runs.take(rest), seed, beside)
        if not without.guided or abs(without.away(runs.take(kept[[row]]))[0]) < FAR:
            break
        model, kept = without, rest
    aside = np.setdiff1d(np.arange(len(runs)), kept)
    return replace(model, aside=runs.take(aside)) if len(aside) else model


def _suspect(model: Surrogate) -> int | None:
    """The row that is farthest from what the others say of it, where one is far and laws guide."""
    if not model.guided:
        return None
    runs = model.runs
    off = np.abs(model.process.left_out())
    off[runs.loss > SPOILT * model.base(model.columns(runs.points, runs.settings))] = 0.0
    return int(off.argmax()) if off.max() >= SUSPECT else None


def _model(runs: Runs, seed: int, beside: Alone) -> Surrogate:
    """The model of all of `runs`."""
    if len(runs) < EACH * (LAW + _numbers(runs)):
        return surrogate(runs, seed=seed)
    model = wide_surrogate(runs, seed=seed)
    names: tuple[str, ...] = LADDER
    for _ in range(ROUNDS):
        tried = candidates(tuned_points(model), seed, DELTA, names, beside, measured=False)
        if all(candidate.fit is None for candidate in tried):
            return surrogate(runs, seed=seed)
        laws = ensemble(tried, DRAWS, seed, beside)
        names = tuple(fit.law.name for fit in laws.fits)
        model = wide_surrogate(runs, laws=laws, seed=seed)
    return model


def _numbers(runs: Runs) -> int:
    """Numbers of a parabola in the settings whose optimum moves with the coordinates."""
    frame = Frame.of(runs.points, runs.settings)
    settings = len(frame.axes)
    return settings * (settings + 1) // 2 + settings * (1 + len(frame.kept))
