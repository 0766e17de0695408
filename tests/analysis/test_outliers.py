"""Which rows are called outliers: alone and far, not a region that laws miss."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.answer.simulate import grid
from analysis.data.axes import Frame
from analysis.data.points import Array
from analysis.fit.outliers import RARE, outliers
from analysis.fit.select import candidates
from benchmarks.analysis_answers import DELTA
from benchmarks.answers_truths import TRUTHS, table

PLAN = grid([1e7, 2e7, 4e7, 8e7, 1.6e8, 3.2e8], [1, 0.5, 0.25], [1e9], [1, 2, 4, 8, 16, 32])
NOISE = 0.01


def fits(*missed: Array):
    """Laws by what they miss."""
    return [SimpleNamespace(residuals=each, runs=SimpleNamespace(points=PLAN)) for each in missed]


def noise(seed: int, size: float = NOISE) -> Array:
    return size * np.random.default_rng(seed).normal(size=len(PLAN.active)).clip(-2, 2)


def named(*missed: Array, measured: bool = True) -> list[int]:
    return np.flatnonzero(outliers(fits(*missed), measured)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_row_that_good_laws_miss_is_named_though_a_bad_law_misses_it_by_little(seed):
    row = int(np.random.default_rng(seed).integers(len(PLAN.active)))
    spike = 0.1 * (np.arange(len(PLAN.active)) == row)
    good, bad = noise(seed) + spike, noise(seed + 100, 10 * NOISE) + spike
    assert named(good, bad) == [row]
    assert named(good, bad, measured=False) == []
    assert named(good) == named(good, measured=False) == [row]


@pytest.mark.parametrize("seed", range(8))
def test_a_region_that_laws_miss_is_none(seed):
    """A corner of the plan: few enough rows to be called outliers, as far off as the row above."""
    columns = Frame.of(PLAN, {}).coordinates(PLAN)
    corner = np.random.default_rng(seed).choice([-1, 1], columns.shape[1])
    row = ((columns - corner) ** 2).sum(axis=1).argmin()
    region = 0.1 * np.exp(-((columns - columns[row]) ** 2).sum(axis=1) / 0.35)
    assert 2 <= (region > 0.04).sum() <= RARE * len(region)
    assert named(noise(seed) + region, noise(seed + 100, 10 * NOISE)) == []


def test_nothing_is_named_where_nothing_is_far():
    assert named(noise(0), noise(1)) == []
    assert named(np.zeros(len(PLAN.active))) == []
    assert outliers([]).tolist() == []


def test_of_many_rows_none_is_called_one():
    rows = np.random.default_rng(3).choice(len(PLAN.active), 10, replace=False)
    spikes = np.zeros(len(PLAN.active))
    spikes[rows] = 0.2
    assert named(noise(3) + spikes) == []


def test_a_bad_row_of_a_real_plan_is_named_and_its_laws_are_scored_without_it():
    """Late over-fitting, which no law has; all laws together do not see this row."""
    truth = TRUTHS["late over-fitting"](np.random.default_rng(1))
    runs = table(truth, np.random.default_rng(2))
    loss = runs.loss.copy()
    loss[31] *= 0.9
    tried = candidates(replace(runs, loss=loss), delta=DELTA)
    able = [candidate for candidate in tried if candidate.fit is not None]
    assert {tuple(np.flatnonzero(candidate.bad)) for candidate in able} == {(31,)}
    clean = {c.law.name: c.rmse for c in candidates(runs, delta=DELTA) if c.fit is not None}
    assert min(c.rmse for c in able) == pytest.approx(min(clean.values()), rel=0.3)
