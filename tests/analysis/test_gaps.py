"""Between two levels of a plan draws go apart by what was missed where a level was held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.answer.gaps import MOST, WIDER, gaps
from analysis.fit.select import level_of, levels

DRAWS = 4000


def plan(*ladders):
    """(n, p) columns of every combination, and the level of every row."""
    columns = np.stack([axis.ravel() for axis in np.meshgrid(*ladders, indexing="ij")], axis=1)
    return columns, [np.searchsorted(ladder, column) for ladder, column in zip(ladders, columns.T, strict=True)]


def drawn(columns, numbers, miss, draws=DRAWS):
    """The gaps of a table that is missed by `miss` (n,) wherever a level is held out."""
    return gaps(columns, numbers, lambda held: held * miss, np.zeros(len(columns)), np.ones((draws, len(columns))))


def added(found, columns, draws=DRAWS):
    """(draws + 1, m) what all gaps add, the estimate's own row first."""
    return sum(gap.at(np.arange(draws + 1), columns) for gap in found)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_nothing_is_added_at_the_levels_and_never_to_the_estimate(seed):
    generator = np.random.default_rng(seed)
    columns, numbers = plan(np.sort(generator.uniform(-1, 1, 4)), [-1.0, 0.2, 1.0])
    found = drawn(columns, numbers, generator.standard_normal(len(columns)), 5)
    assert added(found, columns, 5) == pytest.approx(np.zeros((6, len(columns))), abs=1e-9)
    between = generator.uniform(-1, 1, (40, 2))
    assert not added(found, between, 5)[0].any()
    assert np.ptp(added(found, between, 5)[1:], axis=0).max() > 0


def test_in_the_middle_of_half_the_gap_a_draw_is_off_by_half_of_what_was_missed():
    """.03 missed at the middle of three levels in every row; a plane is held down as by one row."""
    columns, numbers = plan([-1.0, 0.0, 1.0], np.linspace(-1, 1, 9))
    found = drawn(columns, numbers, np.full(len(columns), 0.03))
    spread = added(found, np.array([[0.5, 0.0], [0.5, 1.0], [-0.75, 0.0], [2.0, 0.0]]))[1:].std(axis=0)
    sd = WIDER * 0.5 * 0.03 * 9 / 10
    assert spread == pytest.approx([sd, sd, 0.75 * sd, 0.0], rel=0.1)


def test_a_draw_is_off_most_where_most_was_missed():
    columns, numbers = plan([-1.0, 0.0, 1.0], np.linspace(-1, 1, 9))
    found = drawn(columns, numbers, 0.05 * columns[:, 1])
    middle, end = added(found, np.array([[0.5, 0.0], [0.5, 1.0]]))[1:].std(axis=0)
    assert end > 0.01
    assert middle < 0.1 * end


def test_a_coordinate_of_two_levels_is_as_unsure_as_the_one_that_is_missed_most():
    assert drawn(*plan([-1.0, 1.0], [-1.0, 1.0]), np.full(4, 0.02)) == ()
    found = drawn(*plan([-1.0, 0.0, 1.0], [-1.0, 1.0]), np.full(6, 0.02))
    half, whole = added(found, np.array([[0.5, 1.0], [0.0, 0.0]]))[1:].std(axis=0)
    assert whole == pytest.approx(2 * half, rel=0.1), "its gap is twice as wide"


def test_a_coordinate_of_many_levels_has_no_gaps():
    columns, numbers = plan(np.linspace(-1, 1, MOST + 1), [-1.0, 0.0, 1.0])
    assert {gap.column for gap in drawn(columns, numbers, np.full(len(columns), 0.02))} == {1}


def test_a_wild_row_hardly_widens_a_gap():
    columns, numbers = plan([-1.0, 0.0, 1.0], np.linspace(-1, 1, 9))
    miss = 0.01 * np.random.default_rng(0).standard_normal(len(columns))
    wild = miss + 5.0 * (np.arange(len(columns)) == 13)
    at = np.array([[0.5, 0.0]])
    calm, shaken = (added(drawn(columns, numbers, values), at)[1:].std() for values in (miss, wild))
    assert shaken < calm + 0.005


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=12))
def test_every_value_has_a_level_and_larger_values_have_no_lower_one(values):
    number = level_of(np.array(values))
    assert sorted(set(number)) == list(range(levels(np.array(values))))
    assert (np.diff(number[np.argsort(values)]) >= 0).all()


def test_values_a_little_apart_are_one_level():
    assert level_of(np.array([8.0, 1.0, 7.98, 3.0])).tolist() == [2, 0, 2, 1]
