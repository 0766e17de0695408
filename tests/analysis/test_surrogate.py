"""The model of the loss over coordinates and settings: what it recovers, what it refuses, and that
its fast parts equal slow plain ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from analysis.answer.paths import draw
from analysis.answer.surrogate import surrogate
from analysis.answer.warp import Plane, Warp
from analysis.data.axes import Axis
from analysis.data.points import Points
from analysis.data.table import Runs
from analysis.fit.gaussian import WIDER, Trend, _Objective, fit_process
from benchmarks import settings_truths as truths

MOVING = truths.TRUTHS[0]


@pytest.fixture(scope="module")
def model():
    return surrogate(MOVING.table(60))


def probe(rows=200, seed=9):
    return MOVING.table(rows, noise=0.0, seed=seed)


def test_expected_losses_are_predicted_to_within_the_noise(model):
    fresh = probe()
    mean, sd = model.predict(fresh.points, fresh.settings)
    error = mean - fresh.loss
    near = fresh.loss < fresh.loss.min() + 0.15
    assert np.sqrt(np.mean(error[near] ** 2)) < 0.02
    assert np.mean(np.abs(error) < 1.96 * sd) > 0.85
    assert 0.01 < model.noise < 0.04


def test_the_best_weight_decay_moves_with_size_and_epochs(model):
    points = Points.at(np.repeat(truths.SIZES, 3), 0.5, truths.UNIQUE, truths.UNIQUE * np.tile([6.0, 12.0, 24.0], 3))
    found, mean, sd = model.best_settings(points)
    wrong = np.abs(np.log(found["weight_decay"] / truths.best_decay(points)))
    assert np.median(wrong) < np.log(1.5)
    np.testing.assert_allclose(mean, truths.envelope(points), atol=0.06)
    assert (sd > 0).all()


def test_no_setting_in_range_is_better_than_the_best_ones(model):
    point = Points.at(8e4, 0.5, truths.UNIQUE, truths.UNIQUE * 10.0)
    _, least, _ = model.best_settings(point)
    scan, _ = model.predict(point.take(np.zeros(400, int)), {"weight_decay": np.geomspace(0.11, 9.9, 400)})
    assert least[0] <= scan.min() + 1e-4  # the search asks the likeliest process alone


def test_the_same_rows_give_the_same_model(model):
    again = surrogate(MOVING.table(60))
    points, decay = probe(5).points, {"weight_decay": 1.0}
    np.testing.assert_array_equal(again.predict(points, decay), model.predict(points, decay))


@pytest.mark.parametrize("rows", [5, 6, 9])
def test_few_rows_are_enough_and_leave_the_model_unsure_away_from_them(rows):
    few = surrogate(MOVING.table(rows))
    fresh = probe(50)
    mean, sd = few.predict(fresh.points, fresh.settings)
    assert np.isfinite(mean).all()
    near = few.predict(few.runs.points, few.runs.settings)[1]
    assert near.mean() < sd.mean()


def test_fewer_rows_are_refused():
    with pytest.raises(ValueError, match=r"4 usable rows; .* at least 5"):
        surrogate(MOVING.table(4))


def test_an_overfitted_row_does_not_bend_the_model_near_the_best():
    """One run a nat above its neighbours moves predictions near the optimum by less than noise."""
    clean = MOVING.table(40)
    loss = clean.loss.copy()
    worst = int(loss.argmax())
    loss[worst] += 1.2
    p = clean.points
    spoilt = Runs.from_arrays(p.active, p.density, p.unique, p.tokens, loss, settings=clean.settings)
    points = Points.at(8e4, 0.5, truths.UNIQUE, truths.UNIQUE * np.array([9.0, 15.0]))
    one, _ = surrogate(clean).predict(points, {"weight_decay": 1.5})
    other, _ = surrogate(spoilt).predict(points, {"weight_decay": 1.5})
    np.testing.assert_allclose(one, other, atol=0.03)


def test_seeds_of_one_run_say_what_a_run_s_noise_is_at_least():
    """Pairs of seeds .1 apart in a table whose noise is thought to be .02; one that diverged says
    no more than three times that. What was thought counts for four pairs, for less beside more.
    """
    table = MOVING.table(12, noise=0.0, seed=3)
    twice = table.take(np.repeat(np.arange(12), 2))
    apart = replace(twice, loss=twice.loss + np.tile([0.05, -0.05], 12))
    thought = 0.01 * apart.loss.min()
    told = (4 / 3 * thought**2 + 12 * min(2 * 0.05**2, 9 * thought**2)) / (4 / 3 + 12)
    assert surrogate(apart).least_noise == pytest.approx(np.sqrt(told))
    diverged = replace(twice, loss=twice.loss + np.where(np.arange(24) == 1, 4.0, 0.0))
    assert surrogate(diverged).least_noise < thought
    assert surrogate(table).least_noise == pytest.approx(0.01 * table.loss.min())
    rng = np.random.default_rng(0)
    often = table.take(np.repeat([0, 1], 16))
    often = replace(often, loss=table.loss[0] + 0.002 * rng.standard_normal(32))
    assert surrogate(often).least_noise < 0.005, "many seeds say it themselves"


def test_a_table_without_settings_has_a_model_too():
    runs = MOVING.table(30)
    p = runs.points
    plain = surrogate(Runs.from_arrays(p.active, p.density, p.unique, p.tokens, truths.envelope(p)))
    found, mean, _ = plain.best_settings(p)
    assert found == {}
    assert plain.settings == ()
    np.testing.assert_allclose(mean, truths.envelope(p), atol=0.02)


def test_zero_is_one_step_below_the_smallest_decay_and_a_switch_stays_one():
    runs = MOVING.table(40)
    decay = np.where(np.arange(40) % 4 == 0, 0.0, runs.settings["weight_decay"])
    p, flag = runs.points, np.arange(40) % 2
    given = {"weight_decay": decay, "balanced": flag}
    values = truths.exploding(p, {"weight_decay": decay}) + 0.05 * flag
    both = surrogate(Runs.from_arrays(p.active, p.density, p.unique, p.tokens, values, settings=given))
    found, _, _ = both.best_settings(p)
    assert set(found["balanced"]) == {0.0}
    assert (found["weight_decay"] >= 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "setting 'weight_decay' has no value"),
        ({"weight_decy": 1.0}, "unknown setting 'weight_decy'; did you mean 'weight_decay'"),
        ({"weight_decay": -1.0}, "setting 'weight_decay' is -1.0; it must be positive"),
    ],
)
def test_wrong_settings_are_refused_by_name(model, settings, message):
    with pytest.raises(ValueError, match=message):
        model.predict(probe(1).points, settings)


def test_expected_improvement_equals_the_average_over_draws(model):
    fresh = probe(6)
    below = float(np.quantile(model.predict(fresh.points, fresh.settings)[0], 0.4))
    mean, sd = model.warped(model.columns(fresh.points, fresh.settings))
    draws = mean + sd * np.random.default_rng(0).standard_normal((200_000, 6))
    plain = np.maximum(
        below - model.warp.outward(draws, model.base(model.columns(fresh.points, fresh.settings))), 0
    ).mean(axis=0)
    np.testing.assert_allclose(model.improvement(fresh.points, fresh.settings, below), plain, atol=2e-4)


@given(st.floats(1.0, 4.0), st.lists(st.floats(0.0, 5.0), min_size=1, max_size=5))
def test_the_warp_is_undone(best, excess):
    warp, loss = Warp(Plane(best, np.zeros(2)), 0.15 * best), best + np.array(excess)
    base = warp.base(np.zeros((len(loss), 2)))
    np.testing.assert_allclose(warp.outward(warp.inward(loss, base), base), loss, rtol=1e-9)


@given(st.lists(st.floats(0.0, 1e4, allow_subnormal=False), min_size=2, max_size=6), st.booleans())
def test_an_axis_is_undone(values, negative):
    array = np.array(values) * (-1 if negative else 1)
    axis = Axis.of("x", array)
    np.testing.assert_allclose(axis.outward(axis.inward(array)), array, rtol=1e-6, atol=1e-6 * np.abs(array).max())


def test_the_gradient_of_the_fit_is_that_of_its_value():
    generator = np.random.default_rng(0)
    objective = _Objective(
        generator.uniform(-1, 1, (12, 3)),
        generator.normal(size=12),
        0.1,
        0.5,
        np.array([0.0, 1.0, 0.5]),
        np.linspace(0.5, 1, 12),
        0,
    )
    at = objective.middle + 0.3 * generator.normal(size=len(objective.middle))
    numeric = approx_fprime(at, lambda x: objective(x)[0], 1e-6)
    np.testing.assert_allclose(objective(at)[1], numeric, rtol=1e-3, atol=1e-3)


def test_a_row_that_was_resampled_twice_is_two_rows_and_one_left_out_is_none():
    """Against a plain reference: one draw's own rows, written out, and their covariance solved."""
    generator = np.random.default_rng(4)
    inputs, values = generator.uniform(-1, 1, (12, 2)), generator.standard_normal((12, 3))
    process = fit_process(inputs, values[:, 0], 0.3, np.zeros(2), np.ones(12))[0]
    counts = generator.integers(0, 3, (12, 3)).astype(float)
    bundle = draw((process,), 3, 7, values, counts).bundles[0]
    at = generator.uniform(-1, 1, (5, 2))
    for place in range(3):
        rows = np.repeat(np.arange(12), counts[:, place].astype(int))
        own, rough = inputs[rows], bundle.features(inputs[rows]) @ bundle.loads[:, place]
        prior = process.covariance(own, own) + process.noise**2 * np.eye(len(rows))
        weights = np.linalg.solve(prior, values[rows, place] - process.prior(own) - rough)
        expected = bundle.features(at) @ bundle.loads[:, place] + process.covariance(at, own) @ weights
        assert bundle.basis(at) @ bundle.weights[:, place] == pytest.approx(expected, abs=1e-6)


def test_a_trend_is_kept_where_no_row_is_and_its_columns_have_no_parabola_of_their_own():
    """Rows on a steep trend plus a bowl in the other column: far from all rows the answer follows
    the trend, which a process without it cannot know.
    """
    generator = np.random.default_rng(5)
    inputs = np.hstack([generator.uniform(-1, 0, (30, 1)), generator.uniform(-1, 1, (30, 1))])

    def steep(at):
        return np.exp(2 * at[:, 0])

    values = steep(inputs) + 0.3 * inputs[:, 1] ** 2 + 0.01 * generator.standard_normal(30)
    far = np.array([[1.0, 0.0]])
    asked = (inputs, values, 0.01, np.array([0.0, 1.0]), np.ones(30))
    (told,) = fit_process(*asked, trends=(Trend(1, steep),))
    (bare,) = fit_process(*asked)
    assert abs(told.mean(far)[0] - steep(far)[0]) < 0.1 < abs(bare.mean(far)[0] - steep(far)[0])
    bundle = draw((told,), 4_000, 3).bundles[0]
    at = generator.uniform(-1, 1, (4, 2))
    prior = bundle.features(at) @ bundle.loads / WIDER
    np.testing.assert_allclose(np.diag(bundle.features(at) @ bundle.features(at).T), told.variance(at), rtol=0.01)
    np.testing.assert_allclose(np.diag(told.covariance(at, at)), told.variance(at), rtol=1e-9)
    np.testing.assert_allclose(prior.std(axis=1), np.sqrt(told.variance(at)), rtol=0.08)


def test_the_posterior_is_that_of_the_textbook():
    """Against plain linear algebra (Rasmussen and Williams 2006, equations 2.23, 2.24 and 5.12)."""
    generator = np.random.default_rng(1)
    inputs, at = generator.uniform(-1, 1, (15, 2)), generator.uniform(-1, 1, (4, 2))
    (process,) = fit_process(
        inputs, inputs[:, 0] ** 2 + 0.1 * generator.normal(size=15), 0.1, np.ones(2), np.linspace(0.5, 1, 15)
    )
    prior = process.covariance(inputs, inputs) + np.diag((process.noise * process.louder) ** 2)
    across = process.covariance(at, inputs)
    bare = process.values - process.centre - inputs**2 @ process.bowl
    mean = process.centre + at**2 @ process.bowl + across @ np.linalg.solve(prior, bare)
    covariance = WIDER**2 * (process.covariance(at, at) - across @ np.linalg.solve(prior, across.T))
    np.testing.assert_allclose(process.predict(at)[0], mean, atol=1e-6)
    np.testing.assert_allclose(process.predict(at)[1], np.sqrt(np.diag(covariance)), atol=1e-6)
    np.testing.assert_allclose(process.joint(at)[1], covariance, atol=1e-6)
    for row in range(15):
        rest = np.delete(np.arange(15), row)
        told = prior[row, rest] @ np.linalg.solve(prior[np.ix_(rest, rest)], bare[rest])
        sd = np.sqrt(prior[row, row] - prior[row, rest] @ np.linalg.solve(prior[np.ix_(rest, rest)], prior[rest, row]))
        assert process.left_out()[row] == pytest.approx((bare[row] - told) / sd, abs=1e-6)
