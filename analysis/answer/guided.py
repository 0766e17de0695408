"""The model of the settings that laws guide: how size, sparsity, tokens and epochs act is theirs.

A smooth model of everything needs rows in every direction, and knows nothing beyond them; a law
knows how losses go on, and nothing of settings. So each is fitted to what the other leaves: the
laws to the points as if well set, by the model (`tuned_points`), and the model to the rows about
the laws, where only what settings do is free and the rest is what the laws miss. Two rounds: in the
first the model stands alone. A table that carries no law keeps that model.
"""

from __future__ import annotations

from analysis.answer.ensemble import ensemble
from analysis.answer.envelope import tuned_points
from analysis.answer.surrogate import DRAWS, Surrogate, surrogate
from analysis.answer.warp import WIDE
from analysis.data.table import Runs
from analysis.fit.select import LADDER, candidates

DELTA = 1e-2  # Huber threshold of the fits, in log loss
ROUNDS = 2


def guided(runs: Runs, *, seed: int = 0) -> Surrogate:
    """Raises ValueError for fewer rows than `surrogate` needs."""
    model = surrogate(runs, share=WIDE, seed=seed)
    names: tuple[str, ...] = LADDER
    for _ in range(ROUNDS):
        tried = candidates(tuned_points(model), seed, DELTA, names)
        if all(candidate.fit is None for candidate in tried):
            return model
        laws = ensemble(tried, DRAWS, seed)
        names = tuple(fit.law.name for fit in laws.fits)
        model = surrogate(runs, laws=laws, share=WIDE, seed=seed)
    return model
