"""What a loss may do between two levels of a plan, where no row tells.

Laws that agree at 3 and 9 epochs need not agree at 5, and a truth with a corner there agrees with
none of them. How much they miss between levels is measured at levels that have rows: each inner
level of a coordinate is held out as a whole, the laws are fitted again to the other rows, and what
they miss is told by a plane in the other coordinates. A draw adds such a plane, its size and sign
random, times a bump that is 0 at both ends of a gap and 1 in its middle. Holding out a level leaves
a gap of about twice the width; a gap counts by its share of that, as at a corner. The estimate
stays where it is: moved by what was missed, answers were no better (docs/experiments.md). Limits: a
coordinate of two levels has none to hold out and takes the planes of the one that is missed most;
one of more than `MOST` levels has narrow gaps, and they count as nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array

MOST = 6  # levels of a coordinate above which its gaps count as nothing
WIDER = 1.5  # sd of a draw's planes, in units of the miss: chosen on simulated tables of tuning seeds
FAR = 3.0  # robust spreads from the median miss of a level: no row is let be farther
RIDGE = 1.0  # rows with a miss of 0 that hold a plane down


@dataclass(frozen=True)
class Gap:
    """One gap between neighbouring levels, from `low` to `high` of a column.

    planes: (b + 1, 1 + p) the height of each draw's bump in ln L, a constant and a slope for each
    of p columns; the first, of the estimate, is 0.
    """

    column: int
    low: float
    high: float
    planes: Array

    def at(self, rows: Array, columns: Array) -> Array:
        """(b, m) what the draws in `rows` (b,) add, at (m, p) places or (b, m, p) of their own."""
        share = np.clip((columns[..., self.column] - self.low) / (self.high - self.low), 0.0, 1.0)
        plane = self.planes[rows]
        height = plane[:, :1] + (columns @ plane[:, 1:, None])[..., 0]
        return np.asarray(4 * share * (1 - share) * height)


def gaps(
    columns: Array,
    numbers: Sequence[Array],
    without: Callable[[Array], Array],
    target: Array,
    counts: Array,
    seed: int = 0,
) -> tuple[Gap, ...]:
    """The gaps of a table; none where no coordinate has an inner level.

    columns: (n, p) coordinates; numbers: for each of the p, the level (n,) of every row. without:
    given (k, n) masks, (k, n) ln L of all rows by what was fitted without the masked ones. target:
    (n,) measured ln L. counts: (b, n) how often each draw has each row.
    """
    ladders = [_ladder(column, number) for column, number in zip(columns.T, numbers, strict=True)]
    able = [column for column, ladder in enumerate(ladders) if 2 < len(ladder) <= MOST]
    held = [numbers[column] == np.arange(1, len(ladders[column]) - 1)[:, None] for column in able]
    if not held:
        return ()
    off = _mild(without(np.vstack(held)) - target, np.vstack(held))
    each = np.split(off, np.cumsum([len(rows) for rows in held])[:-1])
    missed = {
        column: _planes(columns, column, counts[:, None] * rows, miss) / (ladders[column][2:] - ladders[column][:-2])
        for column, rows, miss in zip(able, held, each, strict=True)
    }
    most = max(missed.values(), key=lambda planes: float((planes[0] ** 2).mean()))
    generator = np.random.default_rng(seed)
    return tuple(
        _gap(column, ends, missed[column][..., max(place - 1, 0) : place + 1] if column in missed else most, generator)
        for column, ladder in enumerate(ladders)
        if 2 <= len(ladder) <= MOST
        for place, ends in enumerate(itertools.pairwise(ladder))
    )


def _gap(column: int, ends: tuple[float, float], near: Array, generator: np.random.Generator) -> Gap:
    """The gap between two levels. near: (1 + p, b, k) planes of the k inner levels beside it."""
    low, high = ends
    random = generator.standard_normal(near.shape) / np.sqrt(near.shape[2])
    planes = WIDER * (high - low) * (random * near).sum(axis=2).T
    planes[:, 1 + column] = 0.0
    return Gap(column, low, high, np.vstack([np.zeros_like(planes[:1]), planes]))


def _ladder(column: Array, number: Array) -> Array:
    """(levels,) where each level stands, ascending: the mean of its rows."""
    return np.bincount(number, column) / np.bincount(number)


def _mild(miss: Array, held: Array) -> Array:
    """(k, n) misses, none farther than `FAR` robust spreads from the median of those held out."""
    some = np.where(held, miss, np.nan)
    middle = np.nanmedian(some, axis=1, keepdims=True)
    reach = FAR * 1.4826 * np.nanmedian(np.abs(some - middle), axis=1, keepdims=True)
    return np.clip(miss, middle - reach, middle + reach)


def _planes(columns: Array, column: int, weights: Array, miss: Array) -> Array:
    """(1 + p, b, k) planes, flat along a column, through k misses (k, n) at rows that weigh (b, k,
    n).
    """
    flat = np.where(np.arange(columns.shape[1]) == column, 0.0, columns)
    design = np.hstack([np.ones((len(columns), 1)), flat])
    square = np.einsum("bkn,ni,nj->bkij", weights, design, design) + RIDGE * np.eye(design.shape[1])
    return np.linalg.solve(square, ((weights * miss) @ design)[..., None])[..., 0].transpose(2, 0, 1)
