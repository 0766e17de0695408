"""The loss of every measured point at its own best settings, as a table that a law is fitted to.

A law of N, d, U and D describes well-tuned runs; a table of a few settings a point holds badly
tuned ones as well, and the least of a few noisy losses is too low by chance. So the envelope is not
a minimum of rows: the model of all rows (`surrogate`) says for each point which settings are best
and what is expected there, and how sure it is. Points lend each other strength, because the best
settings move smoothly. Where a bowl is flat the least value lies anywhere in it, so of one setting
the middle of those that cost little is named: on tuning tables it truly costs a quarter less
(docs/experiments.md). Left out: points that were never measured (`settings` answers those).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from analysis.answer.surrogate import DRAWS, Surrogate, wide_surrogate
from analysis.data.points import Array, Points
from analysis.data.settings import groups_of
from analysis.data.table import Runs

HALF = 0.075  # of the best loss: a row whose settings cost this much counts half
OWN = 0.2  # rows that the model's own word at a point counts for
CAP = 0.1  # of the best loss above the least row of its point: more than that only says "bad"
BEND = 0.17  # of the best loss: a row whose settings cost c may be missed by a smooth bowl by c^2 / BEND
CLEAR = 3.0  # noises above what is expected: a row that far off costs what it measured
ROUNDS = 3  # of telling what settings cost and fitting again
LITTLE = 2.0  # noises: settings that cost this much weigh 1 / e in the middle
TRIED = 64  # values that are weighed at every point
QUIET = 5e-4  # of the best loss: noise that is thought possible at least


@dataclass(frozen=True)
class Envelope:
    """k points at their best settings. runs: the points with that expected loss, nats per token,
    one row each, no settings left. sd: (k,) how sure, nats. settings: name -> (k,) the best
    values, of one setting the middle of those that cost little. rows: (k,) how many rows of the
    table each point had.
    """

    runs: Runs
    sd: Array
    settings: Mapping[str, Array]
    rows: Array


def envelope(runs: Runs, *, seed: int = 0) -> Envelope:
    """The envelope over settings of every distinct (N, d, U, D) in `runs`.

    Raises ValueError for fewer rows than `surrogate` needs.
    """
    at, place, counts = _points(runs)
    model = _near_the_best(runs, at, place, seed)
    settings, loss, sd = model.best_settings(at.points)
    q = at.points
    found = Runs.from_arrays(q.active, q.density, q.unique, q.tokens, loss)
    axes = model.frame.axes
    return Envelope(found, sd, _middle(model, q) if len(axes) == 1 and not axes[0].switch else settings, counts)


def _middle(model: Surrogate, points: Points) -> dict[str, Array]:
    """(k,) values of the only setting at k points: the mean over its range, weighed by exp(-cost)
    with cost in units of `LITTLE` noises. Of several settings the mean of a bent valley would lie
    beside it.
    """
    low, high = model.frame.limits()
    tried = np.linspace(low[0], high[0], TRIED)
    fixed = model.frame.coordinates(points)
    columns = np.hstack([np.repeat(fixed, TRIED, axis=0), np.tile(tried, len(fixed))[:, None]])
    warped = np.mean([process.mean(columns) for process in model.processes], axis=0)
    mean = model.warp.outward(warped, model.base(columns)).reshape(len(fixed), TRIED)
    noise = max(model.noise, QUIET * float(model.runs.loss.min()))
    weight = np.exp((mean.min(axis=1, keepdims=True) - mean) / (LITTLE * noise))
    return model.frame.named((weight @ tried / weight.sum(axis=1))[:, None])


def _points(runs: Runs) -> tuple[Runs, Array, Array]:
    """The first row of every distinct point, (n,) the point of each row, (k,) rows of each."""
    p = runs.points
    group = groups_of(np.stack([p.active, p.density, p.unique, p.tokens], axis=1), [])
    _, first, place, counts = np.unique(group, return_index=True, return_inverse=True, return_counts=True)
    return runs.take(first), place, counts


def _near_the_best(runs: Runs, at: Runs, place: Array, seed: int) -> Surrogate:
    """The model of the rows whose settings cost little: what each costs is told by the model that
    was fitted before.

    What is expected counts, not what was measured: rows that are low by chance would count more.
    """
    least = np.full(len(at), np.inf)
    np.minimum.at(least, place, runs.loss)
    capped = replace(runs, loss=np.minimum(runs.loss, least[place] + CAP * runs.loss.min()))
    model = wide_surrogate(capped, seed=seed, draws=0)
    for number in range(1, ROUNDS):
        best = model.best_settings(at.points)[1][place]
        expected = model.predict(runs.points, runs.settings)[0]
        cost = np.maximum(np.maximum(expected, capped.loss - CLEAR * model.noise) - best, 0.0)
        noise = max(model.noise, QUIET * float(runs.loss.min()))
        unsure = cost**2 / (BEND * runs.loss.min())
        draws = DRAWS if number == ROUNDS - 1 else 0
        model = wide_surrogate(capped, seed=seed, unsure=unsure, noise=noise, draws=draws)
    return model


def tuned_points(model: Surrogate) -> Runs:
    """The distinct points of the model's runs as if they had been well set, one row each under the
    id of its first row: what a law is fitted to.

    A point's loss is what the model expects at its best settings plus what its own rows measured
    above the model, because a smooth model rounds what a law can say. A row counts the less the
    more its settings cost, and one that diverged hardly: far from the best the model errs too.
    """
    runs = model.runs
    at, place, _ = _points(runs)
    best = model.best_settings(at.points)[1]
    expected = model.predict(runs.points, runs.settings)[0]
    cost = np.maximum(np.maximum(expected, runs.loss) - best[place], 0.0)
    weight = 1 / (1 + (cost / (HALF * runs.loss.min())) ** 2)
    total, above = (np.bincount(place, values) for values in (weight, weight * (runs.loss - expected)))
    loss = best + above / (total + OWN)
    return replace(at, loss=loss, group=np.arange(len(at)), settings={})
