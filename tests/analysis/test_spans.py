"""Which share of the draws each printed interval spans, where an answer is an edge, which laws
extrapolate, and which settings a flat bowl names. That the shares hold the truth is measured by
benchmarks/analysis_answers.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from analysis.answer import recommend as answers
from analysis.answer import settings
from analysis.answer.costs import ACTIVE
from analysis.answer.ensemble import ensemble
from analysis.answer.envelope import LITTLE, envelope
from analysis.answer.optimum import Box, search
from analysis.answer.recommend import Interval, on_edge, recommend
from analysis.answer.surrogate import wide_surrogate
from analysis.data.table import Runs, read_table
from analysis.fit.intervals import bootstrap
from analysis.fit.select import candidates
from benchmarks import settings_truths as truths
from tests.analysis.tables import laptop

BUDGET, UNIQUE = 2.5e12, 50_000.0
NAMES = ("sparse_small", "sparse_small_overfit_linear")


@pytest.fixture(scope="module")
def runs():
    return read_table(laptop(uniques=(50_000, 150_000), epochs=(1, 3, 9), noise=0.01))


@pytest.fixture(scope="module")
def laws(runs):
    return ensemble(candidates(runs, delta=1e-2, names=NAMES), 40)


@pytest.mark.parametrize(
    ("density", "expected"), [(1.0, True), (0.25, True), (0.2505, True), (0.5, False), (0.98, False)]
)
def test_an_edge_is_the_least_or_the_largest_density_that_was_trained(runs, density, expected):
    assert on_edge(density, runs) is expected


def test_where_all_is_dense_every_answer_is_on_the_edge(runs):
    assert on_edge(1.0, runs.take(runs.points.density == 1))


def test_the_fewer_draws_an_interval_spans_the_narrower_it_is(laws):
    values = np.exp(np.random.default_rng(0).standard_normal(41))
    each = [Interval.of(values, laws, spanned=share) for share in (0.3, 0.87, 0.95)]
    for narrow, wide in itertools.pairwise(each):
        assert wide.low < narrow.low <= narrow.value <= narrow.high < wide.high


def test_an_ensemble_s_answer_spans_what_was_chosen_and_one_law_spans_95(runs, laws):
    fitted = laws.fits[0]
    draws, box = bootstrap(fitted, 40), Box.of(runs)
    together = recommend(fitted, draws, BUDGET, UNIQUE, box, laws=laws)
    best = search(laws, laws.numbers, box, BUDGET, UNIQUE, ACTIVE)
    share = answers.density_spans(together.density.value, runs, answers.INSIDE)
    assert share == (answers.ON_EDGE if on_edge(together.density.value, runs) else answers.INSIDE)
    assert together.density == Interval.of(best.density, laws, box.density, share)
    assert together.epochs == Interval.of(best.epochs, laws, box.epochs, answers.EPOCHS)
    assert together.active == Interval.of(best.active, laws, box.active, 0.95)
    alone = recommend(fitted, draws, BUDGET, UNIQUE, box)
    theta = np.concatenate([fitted.theta[None], draws.theta])
    one = search(fitted.law, theta, box, BUDGET, UNIQUE, ACTIVE)
    assert alone.density == Interval.of(one.density, draws, box.density, 0.95)
    assert alone.epochs == Interval.of(one.epochs, draws, box.epochs, 0.95)


def test_only_where_laws_guide_does_a_difference_span_less():
    assert settings.difference_spans(SimpleNamespace(guided=False)) == 0.95
    assert settings.difference_spans(SimpleNamespace(guided=True)) == settings.DIFFERENCE


def test_beyond_the_rows_laws_have_a_prior_and_between_them_none(laws):
    assert all(fit.prior is None for fit in laws.fits)
    assert all(fit.prior is not None for fit, _ in laws.beyond)
    assert sum(weight for _, weight in laws.beyond) == pytest.approx(1.0)


def table(truth: str, each: int, noise: float = 0.02) -> Runs:
    """18 points with so many random settings each."""
    world = next(one for one in truths.TRUTHS if one.name == truth)
    points = world.table(18, seed=1).points.take(np.repeat(np.arange(18), each))
    generator = np.random.default_rng(1)
    chosen = {name: np.exp(generator.uniform(*np.log(truths.RANGES[name]), len(points))) for name in world.settings}
    loss = world.loss(points, chosen) + noise * generator.standard_normal(len(points))
    return Runs.from_arrays(points.active, points.density, points.unique, points.tokens, loss, chosen)


def test_the_middle_of_one_setting_costs_little_by_the_model_itself():
    rows = table("exploding", 5)
    found, model = envelope(rows), wide_surrogate(rows)
    there = model.predict(found.runs.points, found.settings)[0]
    least = model.predict(found.runs.points, model.best_settings(found.runs.points)[0])[0]
    assert np.mean(there - least) < LITTLE * max(model.noise, 0.02)
    low, high = rows.settings["weight_decay"].min(), rows.settings["weight_decay"].max()
    assert ((found.settings["weight_decay"] > low / 2) & (found.settings["weight_decay"] < high * 2)).all()


def test_of_several_settings_the_least_expected_loss_is_named():
    """Their middle may lie beside a bent valley."""
    rows = table("rated", 8)
    found = envelope(rows)
    assert set(found.settings) == {"weight_decay", "lr"}
    off = np.abs(np.log(found.settings["lr"] / (2.5e-3 * (found.runs.points.active / 8e4) ** -0.3)))
    assert np.median(off) < np.log(2.0)


def test_points_without_settings_are_their_own_envelope():
    rows = replace(table("moving", 1), settings={})
    found = envelope(rows)
    assert found.settings == {}
    assert len(found.runs) == len(rows)
