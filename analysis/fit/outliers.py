"""Which rows are outliers: every law misses them by far, or good laws do and their neighbours too.

A law that fits badly misses an outlier by little of its spread, so that all laws together see few;
one that cannot bend misses whole regions, and the rows there are right: an outlier is alone. So
where laws that fit about as well as the best miss a row, what they miss is told once more, by a
Gaussian process through what they miss at the rows nearest to it, and a row that this one misses,
too, is an outlier. Bounds were chosen on simulated tables with a bad row (docs/experiments.md).
Limits: bad rows beside each other confirm each other, and where noise grows along a table a row of
its noisy end may be called one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.data.axes import Frame
from analysis.data.points import Array, Points
from analysis.fit.gaussian import fit_process
from analysis.fit.joint import Fit

RARE = 0.04  # where more than this share of the rows (and more than one) qualify, none is an outlier
EVERY = 6.0  # robust spreads from every law: an outlier, whatever its neighbours are
WORST = 2.0  # times the least spread: laws that miss more have no voice
SUSPECT = 4.0  # robust spreads from each law with a voice: a row is looked at ...
FAR = 5.0  # ... and is an outlier from so many sds on, its neighbours known
NEAREST, CLOSE = 100, 8  # neighbours, and the nearest of them
MOST = 12  # rows that are looked at, the farthest first
LEAST = 1e-5  # spread of ln L, at least: losses are rounded
QUIET = 0.5  # of the spread is thought to be noise before the process has spoken


def outliers(fits: Sequence[Fit], measured: bool = True) -> Array:
    """(n,) which rows of the table are outliers by these laws' fits to it, all of the same rows.

    measured: the losses are those of runs; else, as of points that a model has set well, their
    neighbours are not asked: what is wrong with such a loss may be the model's.
    """
    if not fits:
        return np.zeros(0, dtype=bool)
    missed = np.stack([found.residuals for found in fits])
    bad = _few(np.asarray((_far(missed) > EVERY).all(axis=0)))
    return _few(_with_alone(fits[0].runs.points, missed, bad), bad) if measured else bad


def _with_alone(points: Points, missed: Array, bad: Array) -> Array:
    """(n,) the bad rows, and those that laws with a voice and the nearest rows miss."""
    spread = _spread(missed)
    missed = missed[spread <= WORST * spread.min()]
    far, bad = _far(missed).min(axis=0), bad.copy()
    columns = Frame.of(points, {}).coordinates(points)
    for row in np.argsort(-far, kind="stable")[:MOST]:
        if far[row] >= SUSPECT and not bad[row]:
            bad[row] = all(_alone(columns, values, row, bad) >= FAR for values in missed)
    return bad


def _few(bad: Array, otherwise: Array | bool = False) -> Array:
    """(n,) the bad rows where they are few; else those of `otherwise`, none if not given."""
    return bad if bad.sum() <= max(1, RARE * len(bad)) else bad & otherwise


def _far(missed: Array) -> Array:
    """(k, n) robust spreads by which each law misses each row."""
    return np.asarray(np.abs(_centred(missed)) / _spread(missed)[:, None])


def _centred(missed: Array) -> Array:
    """(k, n) what each law misses, about its median."""
    return np.asarray(missed - np.median(missed, axis=1, keepdims=True))


def _spread(missed: Array) -> Array:
    """(k,) robust sd of what each law misses."""
    return np.maximum(1.4826 * np.median(np.abs(_centred(missed)), axis=1), LEAST)


def _alone(columns: Array, missed: Array, row: int, bad: Array) -> float:
    """Sds by which what a law misses at a row differs from what its neighbours say. Of bad rows
    only near ones are neighbours: those may say that a region is missed.
    """
    order = np.argsort(((columns - columns[row]) ** 2).sum(axis=1), kind="stable")
    order = order[order != row]
    near = np.sort(np.concatenate([order[:CLOSE], order[CLOSE:][~bad[order[CLOSE:]]][: NEAREST - CLOSE]]))
    noise = QUIET * float(_spread(missed[None, near])[0])
    process = fit_process(columns[near], missed[near], noise, np.zeros(columns.shape[1]), np.ones(len(near)))[0]
    expected, sd = process.predict(columns[[row]])
    return float(abs(missed[row] - expected[0]) / np.hypot(sd[0], process.noise))
