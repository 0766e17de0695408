"""The model of settings that laws guide: what it may answer, and where it stays the plain model."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from analysis.answer.costs import ACTIVE
from analysis.answer.envelope import tuned_points
from analysis.answer.guided import guided
from analysis.answer.optimum import Box
from analysis.answer.settings import answer
from analysis.answer.surrogate import surrogate
from benchmarks.answers_truths import TRUTHS, best_decay, best_possible, mistaken, table


@functools.cache
def world():
    """A truth, its table with a random weight decay on every run, and the guided model."""
    generator = np.random.default_rng([10030, 0])
    truth = TRUTHS["in the family"](generator)
    runs = table(truth, generator, settings=True)
    return truth, runs, guided(runs)


def test_a_guided_answer_is_good_where_no_run_was_and_its_interval_holds_the_truth():
    """The best run of the box is sparse and large: no run of the plan is near it."""
    truth, runs, model = world()
    unique = 5e4
    budget = float(ACTIVE.of(runs.points.take(runs.points.unique == unique)).max())
    best = answer(runs, budget=budget, unique=unique, cost=ACTIVE, draws=39, model=model).best
    point, decay = best.point(unique), best.settings["weight_decay"].value
    true = float((truth.loss(point) + mistaken(point, np.array([decay])))[0])
    assert true - best_possible(truth, Box.of(runs), budget, unique)[0] < 0.03
    assert best.expected.low <= true <= best.expected.high
    assert best.active.value / best.density.value > 1.5 * (runs.points.active / runs.points.density).max()
    assert 0.5 < decay / best_decay(point)[0] < 2


def test_points_are_tuned_without_being_smoothed():
    """Each row's own noise stays in its point, and what its weight decay cost does not."""
    truth, runs, model = world()
    tuned = tuned_points(model)
    place = [runs.ids.tolist().index(name) for name in tuned.ids]
    assert sorted(place) == list(range(len(runs)))
    true = truth.loss(tuned.points)
    off, raw = tuned.loss - true, runs.loss[place] - true
    assert np.sqrt(np.mean(off**2)) < 0.3 * np.sqrt(np.mean(raw**2))
    near = mistaken(tuned.points, runs.settings["weight_decay"][place]) < 0.02
    assert np.corrcoef(off[near], raw[near])[0, 1] > 0.7


def test_a_diverged_run_hardly_moves_its_point():
    _, runs, model = world()
    tuned = tuned_points(model)
    row = runs.ids.tolist().index(tuned.ids[10])
    spoilt = tuned_points(replace(model, runs=replace(runs, loss=runs.loss + 5.0 * (np.arange(54) == row))))
    assert abs(spoilt.loss[10] - tuned.loss[10]) < 0.1
    np.testing.assert_array_equal(np.delete(spoilt.loss, 10), np.delete(tuned.loss, 10))


@pytest.mark.parametrize("factor", [0.85, 1.15])
def test_one_bad_row_is_named_and_weighs_nothing(factor):
    """The third best row of its U, near what is advised; as the best one it is still listed."""
    truth, runs, model = world()
    assert model.aside is None
    unique = 5e4
    asked = {"budget": float(ACTIVE.of(runs.points).max()), "unique": unique, "cost": ACTIVE, "draws": 39}
    clean = answer(runs, **asked, model=model)
    bad = np.flatnonzero(runs.ids == clean.rows[2].row)
    loss = runs.loss.copy()
    loss[bad] *= factor
    spoilt = replace(runs, loss=loss)
    again = guided(spoilt)
    assert again.aside is not None
    assert again.aside.ids.tolist() == [clean.rows[2].row]
    assert len(again.runs) == len(runs) - 1
    told = answer(spoilt, **asked, model=again)
    assert told.warnings[0].startswith(f"{clean.rows[2].row} is far from what the other rows say (loss ")
    assert factor > 1 or told.rows[0].row == clean.rows[2].row

    def true(best):
        point, decay = best.point(unique), best.settings["weight_decay"].value
        return float((truth.loss(point) + mistaken(point, np.array([decay])))[0])

    assert true(told.best) < true(clean.best) + 0.01


@pytest.mark.parametrize("factor", [1.6, 3.0])
def test_a_run_that_diverged_is_no_outlier_as_its_settings_may_be_why(factor):
    _, runs, _ = world()
    loss = runs.loss * np.where(np.arange(54) == 26, factor, 1.0)
    assert guided(replace(runs, loss=loss)).aside is None


def test_a_table_too_small_for_laws_has_the_smooth_model_and_stays_within_its_sizes():
    _, runs, _ = world()
    few = runs.take(np.arange(0, 54, 2))
    model = guided(few)
    assert not model.guided
    np.testing.assert_array_equal(
        model.predict(few.points, few.settings)[0], surrogate(few).predict(few.points, few.settings)[0]
    )
    best = answer(few, budget=1e30, unique=float(few.points.unique[0]), draws=26, model=model).best
    assert best.active.value / best.density.value <= 1.001 * (few.points.active / few.points.density).max()
