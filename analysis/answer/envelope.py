"""The loss of every measured point at its own best settings, as a table that a law is fitted to.

A law of N, d, U and D describes well-tuned runs; a table of a few settings a point holds badly
tuned ones as well, and the least of a few noisy losses is too low by chance. So the envelope is not
a minimum of rows: the model of all rows (`surrogate`) says for each point which settings are best
and what is expected there, and how sure it is. Points lend each other strength, because the best
settings move smoothly. Left out: points that were never measured (`settings` answers those).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.answer.surrogate import Surrogate, surrogate
from analysis.answer.warp import WIDE
from analysis.data.points import Array
from analysis.data.settings import groups_of
from analysis.data.table import Runs

HALF = 0.075  # of the best loss: a row whose settings cost this much counts half
OWN = 0.2  # rows that the model's own word at a point counts for


@dataclass(frozen=True)
class Envelope:
    """k points at their best settings. runs: the points with that expected loss, nats per token,
    one row each, no settings left. sd: (k,) how sure, nats. settings: name -> (k,) the best
    values. rows: (k,) how many rows of the table each point had.
    """

    runs: Runs
    sd: Array
    settings: Mapping[str, Array]
    rows: Array


def envelope(runs: Runs, *, seed: int = 0) -> Envelope:
    """The envelope over settings of every distinct (N, d, U, D) in `runs`.

    Raises ValueError for fewer rows than `surrogate` needs.
    """
    model = surrogate(runs, share=WIDE, seed=seed)
    p = runs.points
    group = groups_of(np.stack([p.active, p.density, p.unique, p.tokens], axis=1), [])
    _, first, counts = np.unique(group, return_index=True, return_counts=True)
    at = runs.take(first)
    settings, mean, sd = model.best_settings(at.points)
    q = at.points
    return Envelope(Runs.from_arrays(q.active, q.density, q.unique, q.tokens, mean), sd, settings, counts)


def tuned_points(model: Surrogate) -> Runs:
    """The distinct points of the model's runs as if they had been well set, one row each under the
    id of its first row: what a law is fitted to.

    A point's loss is what the model expects at its best settings plus what its own rows measured
    above the model, because a smooth model rounds what a law can say. A row counts the less the
    more its settings cost, and one that diverged hardly: far from the best the model errs too.
    """
    runs = model.runs
    p = runs.points
    group = groups_of(np.stack([p.active, p.density, p.unique, p.tokens], axis=1), [])
    _, first, place = np.unique(group, return_index=True, return_inverse=True)
    at = runs.take(first)
    best = model.best_settings(at.points)[1]
    expected = model.predict(p, runs.settings)[0]
    cost = np.maximum(np.maximum(expected, runs.loss) - best[place], 0.0)
    weight = 1 / (1 + (cost / (HALF * runs.loss.min())) ** 2)
    total, above = (np.bincount(place, values) for values in (weight, weight * (runs.loss - expected)))
    loss = best + above / (total + OWN)
    return replace(at, loss=loss, group=np.arange(len(first)), settings={})
