"""Many laws, one answer: weights that are weights, draws that hold the estimate, savings that are
not dense against itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from analysis.answer.costs import ACTIVE
from analysis.answer.ensemble import OVER, ensemble, even, stack
from analysis.answer.optimum import Box, search
from analysis.answer.recommend import recommend
from analysis.answer.savings import Affordable, affordable
from analysis.data.points import Points
from analysis.data.table import read_table
from analysis.fit.intervals import bootstrap
from analysis.fit.select import candidates, pick
from analysis.laws import named
from tests.analysis.tables import LAW, TRUTH, laptop

BUDGET, UNIQUE = 2.5e12, 50_000.0


@pytest.fixture(scope="module")
def tried():
    runs = read_table(laptop(uniques=(50_000, 150_000), epochs=(1, 3, 9), noise=0.01))
    return candidates(runs, delta=1e-2, names=("sparse_small", "sparse_small_untied", "sparse_small_overfit_linear"))


@pytest.fixture(scope="module")
def laws(tried):
    return ensemble(tried, 30)


@hypothesis_settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_stacking_finds_a_mixture_that_was_planted(seed, share):
    generator = np.random.default_rng(seed)
    unseen = generator.normal(size=(30, 2))
    found = stack(unseen, unseen @ [share, 1 - share], np.ones(30))
    assert found == pytest.approx([share, 1 - share], abs=1e-5)


def test_a_row_that_does_not_count_does_not_move_the_weights():
    unseen = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 5.0], [9.0, 0.0]])
    counts = np.array([1.0, 1.0, 1.0, 0.0])
    assert stack(unseen, unseen[:, 0] + [0, 0, 0, -9], counts) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_even_weights_follow_the_errors_and_let_none_win():
    unseen = np.array([[1.0, 2.0], [-1.0, -2.0], [9.0, 0.0]])
    assert even(unseen, np.zeros(3), np.array([1.0, 1.0, 0.0])) == pytest.approx([0.8, 0.2])


def test_what_is_dearer_than_every_row_is_told_by_the_laws_that_extrapolate(laws):
    """Here by one law, so that it can be seen: nothing changes at the rows, half of it at half of
    the way.
    """
    other = laws.fits[-1]
    moved, first = replace(laws, beyond=((other, 1.0),)), np.zeros(1, dtype=int)
    points = laws.runs.points
    np.testing.assert_array_equal(moved.log_loss(laws.numbers, points), laws.log_loss(laws.numbers, points))
    dearest = points.take([int(np.argmax(points.log_active + points.log_tokens))])
    for way, share in ((2.0, 1.0), (0.5, 0.5)):
        there = replace(dearest, tokens=dearest.tokens * np.exp(way * OVER))
        mixture, alone = moved.laws(first, there)[0], other.law.log_loss(other.theta[None], there)[0]
        rest = moved.rest(first, moved.frame.coordinates(there))[0]
        assert moved.log_loss(laws.numbers[:1], there)[0] - rest == pytest.approx((1 - share) * mixture + share * alone)


def test_beyond_the_box_the_rest_is_that_of_the_nearest_edge(laws):
    columns = laws.frame.coordinates(laws.runs.points)
    outer = columns[np.abs(columns).max(axis=1) >= 1 - 1e-9]
    rows = laws.numbers[:, 0].astype(int)
    assert laws.rest(rows, np.where(np.abs(outer) >= 1 - 1e-9, 3 * outer, outer)) == pytest.approx(
        laws.rest(rows, outer)
    )


def test_an_ensemble_misses_the_truth_by_less_than_the_noise_of_a_run(laws):
    assert laws.weights.sum(axis=1) == pytest.approx(np.ones(31))
    assert (laws.weights >= 0).all()
    points = laws.runs.points
    error = laws.log_loss(laws.numbers[:1], points)[0] - np.log(LAW.predict(TRUTH, points))
    assert np.sqrt(np.mean(error**2)) < 0.01


def test_points_that_all_draws_share_and_points_of_their_own_give_the_same(laws):
    points = laws.runs.points.take(np.arange(5))
    own = Points(*(np.tile(getattr(points, name), (31, 1)) for name in ("active", "density", "unique", "tokens")))
    assert laws.log_loss(laws.numbers, points) == pytest.approx(laws.log_loss(laws.numbers, own), rel=1e-9)


def test_draws_go_apart_between_the_levels_of_the_plan_and_nowhere_else(laws):
    """At the rows, and in the estimate, nothing is added for what no row tells."""
    plain = replace(laws, gaps=())
    points = laws.runs.points
    assert laws.log_loss(laws.numbers, points) == pytest.approx(plain.log_loss(laws.numbers, points), abs=1e-12)
    between = Points.at(points.active, points.density, points.unique, np.sqrt(3) * points.tokens)
    told, plainly = laws.log_loss(laws.numbers, between), plain.log_loss(laws.numbers, between)
    np.testing.assert_array_equal(told[0], plainly[0])
    inside = points.epochs < 5
    assert told[1:, inside].std(axis=0).mean() > 1.1 * plainly[1:, inside].std(axis=0).mean()


def test_the_answer_costs_at_most_the_budget_and_is_no_worse_than_any_row_is_predicted(laws):
    box = Box.of(laws.runs)
    found = search(laws, laws.numbers[:1], box, BUDGET, UNIQUE)
    assert ACTIVE.of(found.point())[0] <= BUDGET * (1 + 1e-9)
    points = laws.runs.points
    inside = (points.unique == UNIQUE) & (ACTIVE.of(points) <= BUDGET)
    assert found.loss[0] <= np.exp(laws.log_loss(laws.numbers[:1], points.take(inside))).min() + 1e-6


@pytest.mark.parametrize("alone", [True, False])
def test_a_recommendation_names_the_best_measured_rows_and_an_equal_for_less(tried, laws, alone):
    fitted = pick(tried).fit
    runs = fitted.runs
    item = recommend(fitted, bootstrap(fitted, 30), BUDGET, UNIQUE, Box.of(runs), laws=None if alone else laws)
    within = (runs.points.unique == UNIQUE) & (ACTIVE.of(runs.points) <= BUDGET)
    assert [row.loss for row in item.rows] == sorted(runs.loss[within])[:3]
    assert item.cost <= BUDGET * (1 + 1e-9)
    assert item.loss.low <= item.loss.value <= item.loss.high
    assert item.cheaper.cost <= item.cost * 1.1
    assert item.cheaper.loss <= item.loss.value + 0.003 + 1e-9


def test_dense_that_is_better_when_it_stops_earlier_is_no_saving():
    """Sparse and dense reach the same loss at the same cost; dense past its best costs more."""
    points = Points.at([1e5, 1e5, 1e5], [1.0, 1.0, 0.5], 1e5, [1e5, 8e5, 1e5])
    grid = Affordable(points, ACTIVE.of(points), np.array([[2.0, 2.5, 2.0], [2.0, 2.5, 1.9]]))
    assert grid.saving() == pytest.approx([1.0, 1.0])


def test_a_saving_is_below_one_where_sparse_needs_more():
    points = Points.at([1e5, 1e5, 4e5], [1.0, 0.5, 0.5], 1e5, 1e5)
    grid = Affordable(points, ACTIVE.of(points), np.array([[2.0, 2.4, 2.0]]))
    assert grid.saving() == pytest.approx([0.25])
    assert np.isnan(Affordable(points.take([0]), grid.cost[:1], grid.loss[:, :1]).saving()).all()


def test_a_saving_is_read_between_the_cells_of_its_grid():
    """With alpha = beta = a, sparsity that makes A smaller by exp(k s) saves exp(-k s / a)."""
    law = named("sparse_single_epoch")
    k, a = np.array([-0.5, -0.502, -0.3]), 0.33
    at = {"ln_A": np.log(400), "ln_B": np.log(900), "ln_E": np.log(1.7), "alpha": a, "beta": a}
    theta = np.stack([law.vector({**at, "k": value}) for value in k])
    box = Box((1e6, 1e9), (0.25, 1.0), tokens=(1e6, 1e10))
    saved = affordable(law, theta, box, 0.5, 1e17, None, ACTIVE).saving()
    assert saved == pytest.approx(np.exp(-k * 0.75 / a), rel=0.01)
    assert saved[1] > saved[0]
