"""How the best size grows with compute where every token is fresh: N_opt ~ C^a.

With L = E + A / N^alpha + B / D^beta and C = 6 N D, a = beta / (alpha + beta) (Hoffmann et al.
2022, arXiv 2203.15556, approach 3); a power of the sum of both terms does not move it. A law with
alpha = beta says .5 whatever the rows say, so the exponent is always taken from one that leaves
them apart. Left out: parabolas along equal compute (approach 2), which are biased where the
parabola is lopsided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.answer.recommend import Interval
from analysis.fit.intervals import bootstrap
from analysis.fit.select import Candidate


@dataclass(frozen=True)
class Exponent:
    """a, with its 95 % interval, by the law of that name."""

    law: str
    value: Interval


def exponent(tried: Sequence[Candidate], draws: int = 100, seed: int = 0) -> Exponent | None:
    """From the untied law without repetition of least cross-validated error; None if there is
    none.
    """
    able = [c for c in tried if c.fit is not None and not c.law.tied and c.law.saturation is None]
    if not able:
        return None
    found = min(able, key=lambda candidate: candidate.rmse).fit
    assert found is not None
    sample = bootstrap(found, draws, seed)
    alpha, beta = (
        np.concatenate([[found.stored[name]], sample.theta[:, found.law.names.index(name)]])
        for name in ("alpha", "beta")
    )
    return Exponent(found.law.name, Interval.of(beta / (alpha + beta), sample, (0.0, 1.0)))
