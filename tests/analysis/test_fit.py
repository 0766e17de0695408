"""Fits: every minimum that is known beforehand is found from default settings, and nothing is
claimed too sharply.

Targets are measured facts of public tables (see data/README.md); no fit is told where to start.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.answer.simulate import grid, simulate
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit import Prior, fit, solver
from analysis.fit.flags import fit_flags
from analysis.fit.intervals import bootstrap, percentiles, resample
from analysis.fit.outliers import outliers
from analysis.fit.problem import Problem, huber
from analysis.fit.profile import profile
from analysis.fit.refit import refit, starting_points
from analysis.fit.select import candidates, choose_law, cross_validate, levels, pick
from analysis.fit.solver import minimise
from analysis.fit.staged import staged
from analysis.fit.starts import choose, guesses
from analysis.fit.stiffness import stiffness
from analysis.laws import named, published_vector
from tests.analysis.conftest import DATA
from tests.analysis.tables import laptop

FIXED = {"ln_A": 6.255414, "ln_B": 7.3049974, "ln_E": 0.6254804, "alpha": 0.3526596}  # as datablations fixed them


def test_chinchilla_without_outliers(chinchilla):
    found = fit(named("chinchilla"), chinchilla(False))
    assert found.objective == pytest.approx(0.001018274018, rel=1e-9)
    for name, value in {"A": 477.826, "B": 2143.418, "E": 1.817218, "alpha": 0.347310, "beta": 0.367172}.items():
        assert found.parameters[name] == pytest.approx(value, rel=2e-6)


def test_chinchilla_with_the_five_outliers(chinchilla):
    assert fit(named("chinchilla"), chinchilla(True)).objective == pytest.approx(0.00182601052, rel=2e-9)


def test_chinchilla_bootstrap_intervals(chinchilla):
    """1,000 pairs; the reference percentiles are of 4,000, and known to a few per cent."""
    draws = bootstrap(fit(named("chinchilla"), chinchilla(False)), 1000)
    low, high = np.exp(percentiles(draws.theta[:, :3]))
    assert low[0] == pytest.approx(285, rel=0.06)
    assert high[0] == pytest.approx(728, rel=0.06)
    assert low[2] == pytest.approx(1.771, abs=0.005)
    assert high[2] == pytest.approx(1.871, abs=0.005)
    low, high = percentiles(draws.theta[:, 3:])
    assert [*low, *high] == pytest.approx([0.316, 0.333, 0.372, 0.416], abs=0.004)


def test_the_published_datablations_answer_is_one_of_five_minima_and_not_the_best(datablations):
    found = fit(named("data_constrained"), datablations, fixed=FIXED)
    assert found.objective == pytest.approx(0.015804662474, rel=1e-9)
    assert (found.parameters["R_D"], found.parameters["R_N"]) == pytest.approx((95.365, 1.7059), rel=1e-4)
    objectives = [minimum.objective for minimum in found.minima]
    for known in (0.0158073786, 0.0158112893, 0.0158259):
        assert min(abs(value / known - 1) for value in objectives) < 1e-5
    published = min(found.minima, key=lambda m: abs(np.exp(m.theta[4]) - 15.387756))
    assert np.exp(published.theta[4:]) == pytest.approx([15.38, 5.31], rel=2e-3)


def test_the_unidentified_saturation_constant_is_flagged(datablations):
    found = fit(named("data_constrained"), datablations, fixed=FIXED)
    draws = bootstrap(found, 150)
    low, high = draws.parameter_intervals()["R_D"]
    assert low < 10
    assert high > 1e5
    assert any("R_D* is not identified" in flag for flag in fit_flags(found, draws))


def test_all_seven_parameters_of_datablations_at_once_run_to_infinite_excess(datablations):
    found = fit(named("data_constrained_untied"), datablations)
    assert found.objective <= 0.00656832942 * (1 + 1e-9)
    (flag,) = (flag for flag in fit_flags(found) if "R_N" in flag)
    assert "R_N* = 1.08e+08 is practically infinite" in flag


def test_datablations_near_one_epoch():
    runs = read_table(DATA / "datablations_all_runs.csv", {"active": "params"})
    found = fit(named("chinchilla_tied"), runs.take(runs.points.epochs <= 2.5))
    assert found.objective == pytest.approx(0.001218938675, rel=1e-9)
    assert list(found.theta) == pytest.approx([6.45395, 8.02425, 0.640036, 0.359609], rel=1e-5)


def test_all_thirteen_planted_parameters_come_back(synthetic):
    """The table was made with densities clamped at 1 - 1e-8 (data/README.md); with the clamp
    nothing is left over.
    """
    found = fit(named("sparse_published"), synthetic("loss_clean"))
    planted = {
        **dict(zip(found.law.names, published_vector(), strict=True)),
        "l1": 1.82159486,
        "s1": -1.36557887,
        "l2": 1.90420893,
        "s2": -2.79936732,
    }
    assert found.objective < 1e-18
    for name, value in planted.items():
        assert found.stored[name] == pytest.approx(value, abs=1e-6), name
    points = found.runs.points
    clamped = Points(points.active, np.minimum(points.density, 1 - 1e-8), points.unique, points.tokens)
    exact = minimise(Problem(found.law, clamped, found.runs.log_loss), found.theta[None], 1e-3)
    assert exact.objective[0] < 1e-28


def test_the_published_stages_reach_the_known_minimum_and_are_biased_even_without_noise(synthetic):
    noisy = staged(synthetic("loss"))
    assert noisy.stages[1].objective == pytest.approx(0.0013998473, rel=1e-7)
    assert [len(stage.runs) for stage in noisy.stages] == [41, 232, 63, 205]
    assert staged(synthetic("loss_staged")).stages[1].objective < 0.0013998473
    clean, joint = staged(synthetic("loss_clean")).fit, fit(named("sparse_published"), synthetic("loss_clean"))
    assert clean.parameters["R_N"] > 13, "stages 1 and 2 ignore excess parameters"
    assert joint.parameters["R_N"] == pytest.approx(11.0876, rel=1e-4)
    assert clean.objective > 1e-5 > joint.objective


def test_stages_say_which_of_them_lacks_rows(datablations):
    with pytest.raises(ValueError, match=r"stage 4 \(sparse, repeated\) has 0 rows and needs at least 4"):
        staged(read_table(DATA / "datablations_all_runs.csv", {"active": "params"}))


def test_same_seed_same_answer_and_any_seed_the_same_minimum(synthetic):
    runs = synthetic("loss")
    one, two, other = (fit(named("sparse_published"), runs, seed=seed) for seed in (0, 0, 5))
    assert np.array_equal(one.theta, two.theta)
    assert other.objective == pytest.approx(one.objective, rel=1e-9)
    draws = [bootstrap(one, 20, seed=3).theta for _ in range(2)]
    assert np.array_equal(*draws)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_planted_law_is_recovered_from_clean_runs(seed):
    generator = np.random.default_rng(seed)
    law = named("sparse_small")
    theta = law.vector(
        {
            "ln_A": generator.uniform(4, 6),
            "ln_B": generator.uniform(5, 7),
            "ln_E": generator.uniform(0, 1),
            "alpha": generator.uniform(0.25, 0.4),
            "k": generator.uniform(-0.5, 0.3),
            "ln_R_D": generator.uniform(0.7, 3),
            "ln_R_N": generator.uniform(0.7, 2.5),
        }
    )
    plan = grid([1e7, 1e8, 1e9], [1, 0.5, 0.25], [1e8, 1e9], [1, 3, 10])
    found = fit(law, simulate(law, theta, plan, noise=0.0))
    assert found.objective < 1e-18
    assert found.predict(plan) == pytest.approx(law.predict(theta, plan), rel=1e-7)


@settings(max_examples=50, deadline=None)
@given(residual=st.floats(-1, 1), delta=st.floats(1e-4, 0.5))
def test_huber_is_its_definition(residual, delta):
    expected = residual**2 / 2 if abs(residual) <= delta else delta * (abs(residual) - delta / 2)
    assert huber(np.array([residual]), delta)[0] == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_a_dense_row_with_a_wild_mu_neither_explodes_nor_gives_nan(synthetic):
    runs = synthetic("loss")
    problem = Problem(named("sparse_one_epoch"), runs.points, runs.log_loss)
    start = np.array([[5.0, 6.0, 0.8, 0.3, 0.0, 0.01, 0.5]])
    assert np.isfinite(minimise(problem, start, 1e-3).objective[0])


def test_a_prior_holds_what_the_rows_do_not_say(isoloss):
    """All 50 rows share one U, so the published R_N* can only come from the prior."""
    law = named("sparse_published")
    mean = dict(zip(law.names, published_vector(), strict=True))
    tight = fit(law, isoloss, prior=Prior(mean, dict.fromkeys(mean, 1e-4)))
    assert tight.theta == pytest.approx(published_vector(), abs=2e-3)
    with pytest.raises(ValueError, match="must be positive"):
        Prior({"alpha": 0.3}, {"alpha": 0.0})


def test_too_few_rows_say_which_law_would_do(datablations):
    few = datablations.take(np.arange(5))
    with pytest.raises(
        ValueError, match="6 free parameters but the table has 5 different runs; 'chinchilla_tied' with 4 would do"
    ):
        fit(named("data_constrained"), few)
    with pytest.raises(ValueError, match="nearest is data_constrained: 9 different runs needed, 3 there"):
        choose_law(read_table(laptop().slice(0, 3)))
    with pytest.raises(ValueError, match=r"fixed parameters .'gamma'. are not in law"):
        fit(named("chinchilla"), datablations, fixed={"gamma": 1.0})
    for delta in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"delta is {delta}; expected a Huber threshold of log loss above 0"):
            fit(named("chinchilla"), datablations, delta=delta)


def test_the_ladder_says_what_a_table_lacks_and_takes_the_plainest_law_that_predicts():
    tried = {candidate.law.name: candidate for candidate in candidates(read_table(laptop()), delta=1e-2)}
    assert "4 densities needed, 3 there" in tried["sparse_published"].lacking
    assert "ignores density, which varies in this table" in tried["data_constrained"].unsuited
    chosen = pick(tuple(tried.values()))
    assert chosen is not None
    assert chosen.rmse < 1.1 * min(c.rmse for c in tried.values() if c.fit)


def test_levels_are_counted_whether_values_are_repeated_nearly_repeated_or_continuous():
    assert levels(np.array([1.0, 0.94, 7.98, 7.94, 8.0, 16.0])) == 3
    assert levels(np.geomspace(1, 1000, 5000)) > 50
    assert levels(np.array([])) == 0


def test_cross_validation_keeps_replicates_together(synthetic):
    found = fit(named("sparse_published"), synthetic("loss"))
    rmse, error = cross_validate(found)
    assert found.rmse < rmse < 1.3 * found.rmse
    assert 0 < error < rmse


def small_table(**changes):
    return read_table(laptop(uniques=(50_000, 150_000), epochs=(1, 3, 9), noise=0.01, **changes))


def test_draws_are_fitted_until_they_converge_and_none_is_much_above_its_own_minimum():
    """Against a slow reference: 40 starts of each resampled table, followed to the end."""
    found = fit(named("sparse_small_overfit"), small_table(), delta=1e-2)
    draws = bootstrap(found, 20, seed=3)
    assert draws.converged == 1.0
    weights = resample(found.runs.group, 20, np.random.default_rng(3), "pairs")
    problem = found.problem
    many = choose(problem, guesses(problem, 2000, seed=5), 40)
    far = minimise(problem, np.tile(many, (20, 1)), found.delta, np.repeat(weights, len(many), axis=0), 500, 1e-9)
    least = far.objective.reshape(20, -1).min(axis=1)
    free = draws.theta[:, problem.free]
    reached = problem.objective(free, problem.residuals(free), found.delta, weights)
    assert np.mean(reached <= 1.005 * least) >= 0.95


def test_a_bent_valley_takes_half_the_steps_when_it_is_followed(monkeypatch):
    """Descents to the same minimum, with the correction along the bend and without."""
    law, points = named("chinchilla"), grid([1e5, 3e5, 1e6], [1.0], [5e4, 2e5, 8e5], [1])
    truth = law.vector({"ln_A": 3.0, "ln_B": 4.0, "ln_E": -1.0, "alpha": 0.2, "beta": 0.3})
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(points))
    problem = Problem(law, points, law.log_loss(truth[None], points)[0] + noise, delta=1e-2)
    starts = choose(problem, guesses(problem, 256), 16)
    followed = minimise(problem, starts, problem.delta, tolerance=1e-6)
    monkeypatch.setattr(solver, "BEND", 0.0)
    straight = minimise(problem, starts, problem.delta, tolerance=1e-6)
    assert 2 * followed.steps.sum() < straight.steps.sum()
    np.testing.assert_allclose(followed.objective.min(), straight.objective.min(), rtol=1e-6)


def test_draws_of_a_law_with_a_long_flat_valley_end_near_its_floor():
    """The bounded law on 54 rows: E goes to nothing, G to its bound. Reference: the same descents,
    followed ten times as far. A relative excess of 1 / rows is about one standard error.
    """
    found = fit(named("sparse_bounded"), small_table(), delta=1e-2)
    weights = resample(found.runs.group, 6, np.random.default_rng(0), "pairs")
    problem, starts = found.problem, starting_points(found)
    reached = refit(problem, starts, weights)
    assert reached.converged.all()
    on = minimise(problem, reached.free, found.delta, weights, 6000, 1e-9)
    errors = np.sqrt(len(found.runs) * np.maximum(reached.objective / on.objective - 1, 0))
    assert errors.max() < 1


@given(
    law=st.sampled_from(("chinchilla", "chinchilla_tied", "sparse_bounded", "sparse_small_overfit")),
    step=st.lists(st.floats(-1, 1), min_size=10, max_size=10),
)
@settings(max_examples=30, deadline=None)
def test_a_step_is_as_long_as_what_it_changes_at_the_middle_of_the_rows(law, step):
    """A turn of alpha that leaves A / N^alpha at the mean of ln N is as long as alpha alone."""
    runs, chosen = small_table(), named(law)
    problem = Problem(chosen, runs.points, runs.log_loss)
    width = {p.name: p.start[1] - p.start[0] for p in problem.parameters}
    move = dict(zip(chosen.names, step, strict=False))
    turned = dict(move)
    turned["ln_A"] += move["alpha"] * runs.points.log_active.mean()
    turned["ln_B"] += move["alpha" if chosen.tied else "beta"] * runs.points.log_tokens.mean()
    rest = [name for name in chosen.names if name not in ("ln_K", "gamma", "zeta", "q", "r")]
    for name in set(chosen.names) - set(rest):
        turned[name] = 0.0
    vector = np.array([turned[name] for name in chosen.names])
    assert vector @ stiffness(problem) @ vector == pytest.approx(sum((move[name] / width[name]) ** 2 for name in rest))


def test_one_bad_row_is_named_and_does_not_choose_the_law():
    runs = small_table()
    loss = runs.loss.copy()
    loss[20] *= 1.2
    tried = candidates(replace(runs, loss=loss), delta=1e-2, names=("sparse_small", "sparse_small_overfit_linear"))
    assert np.flatnonzero(outliers([c.fit for c in tried])).tolist() == [20]
    assert pick(tried).law.name == "sparse_small_overfit_linear"
    plain = candidates(runs, delta=1e-2, names=("sparse_small_overfit_linear",))
    assert not outliers([c.fit for c in plain]).any()


def test_one_draw_is_no_interval():
    with pytest.raises(ValueError, match="draws is 1; an interval needs at least 2"):
        resample([0, 1, 2], 1, np.random.default_rng(0), "pairs")


@pytest.mark.parametrize("scheme", ["pairs", "smooth"])
def test_replicates_are_resampled_as_a_whole(scheme):
    weights = resample([0, 0, 1, 2, 2, 2], 50, np.random.default_rng(0), scheme)
    assert np.array_equal(weights[:, 0], weights[:, 1])
    assert np.array_equal(weights[:, 3], weights[:, 5])
    per_group = weights[:, [0, 2, 3]]
    assert per_group.sum(axis=1) == pytest.approx(3.0)


def test_a_profile_agrees_with_the_bootstrap_where_the_noise_is_even():
    law = named("sparse_small")
    theta = law.vector({"ln_A": 5.0, "ln_B": 6.0, "ln_E": 0.8, "alpha": 0.33, "k": -0.2, "ln_R_D": 1.5, "ln_R_N": 2.0})
    plan = grid([1e7, 1e8, 1e9], [1, 0.5, 0.25], [1e8, 1e9], [1, 3, 10])
    found = fit(law, simulate(law, theta, plan, noise=0.005, seed=2), delta=1e-2)
    draws = bootstrap(found, 300)
    for name in ("alpha", "k"):
        curve, (low, high) = profile(found, name), draws.parameter_intervals()[name]
        assert not curve.open
        assert (curve.high - curve.low) / (high - low) == pytest.approx(1.0, abs=0.45)
        assert curve.low < found.stored[name] < curve.high


def test_a_profile_is_open_where_the_rows_do_not_limit_a_parameter():
    """One epoch only: nothing can be said about what repeated tokens are worth."""
    law = named("data_constrained")
    theta = law.vector({"ln_A": 5.0, "ln_B": 6.0, "ln_E": 0.8, "alpha": 0.33, "ln_R_D": 1.5, "ln_R_N": 2.0})
    plan = grid([1e7, 1e8, 1e9], [1], [1e8, 1e9, 1e10], [1])
    found = fit(law, simulate(law, theta, plan, noise=0.003, seed=2, replicates=3))
    assert profile(found, "ln_R_D").open
    with pytest.raises(ValueError, match="'beta' is not a free parameter"):
        profile(found, "beta")


def test_a_large_table_is_fitted_on_all_rows_and_its_intervals_shrink():
    law = named("sparse_small")
    theta = law.vector({"ln_A": 5.0, "ln_B": 6.0, "ln_E": 0.8, "alpha": 0.33, "k": -0.2, "ln_R_D": 1.5, "ln_R_N": 2.0})
    generator = np.random.default_rng(0)
    n = 21_000
    unique = 10 ** generator.uniform(8, 9, n)
    points = Points.at(
        10 ** generator.uniform(7, 9, n),
        generator.choice([1, 0.5, 0.25], n),
        unique,
        unique * generator.integers(1, 10, n),
    )
    large = simulate(law, theta, points)
    found = fit(law, large)
    assert len(found.runs) == n
    assert found.stored["alpha"] == pytest.approx(0.33, abs=0.002)
    wide = bootstrap(fit(law, large.take(np.arange(1000))), 20).parameter_intervals()["alpha"]
    narrow = bootstrap(found, 20).parameter_intervals()["alpha"]
    assert narrow[1] - narrow[0] < 0.4 * (wide[1] - wide[0])


def test_a_large_table_of_replicates_is_as_unsure_as_its_specifications_are_few(monkeypatch):
    """What a specification has of its own is not averaged away by its replicates."""
    law = named("chinchilla_tied")
    theta = law.vector({"ln_A": 6.0, "ln_B": 6.8, "ln_E": 0.53, "alpha": 0.33})
    size, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(3e6, 1e8, 8), np.geomspace(1e7, 1e9, 8)))
    own = np.random.default_rng(0).normal(0, 0.01, 64)
    loss = law.predict(theta, Points.at(size, 1.0, tokens, tokens)) * np.exp(own)
    rows = Runs.from_arrays(*(np.repeat(values, 10) for values in (size, np.ones(64), tokens, tokens, loss)))
    found, widths = fit(law, rows, delta=0.01), []
    monkeypatch.setattr("analysis.fit.intervals.SUBSAMPLE", 128)
    for large in (640, 639):
        monkeypatch.setattr("analysis.fit.intervals.LARGE", large)
        low, high = bootstrap(found, 60).parameter_intervals()["alpha"]
        widths.append(high - low)
    assert widths[1] / widths[0] == pytest.approx(1.0, abs=0.3)


def test_units_that_cannot_be_are_an_error_and_not_a_number():
    with pytest.raises(ValueError, match="loss"):
        Runs.from_arrays([1e6, 1e7], 1.0, 1e9, 1e9, [2.0, -1.0])
