"""Comparing laws, designing trials, simulating plans: small, fast versions of the studies under
benchmarks/.
"""

from __future__ import annotations

import numpy as np
import pytest

from analysis.answer.compare import compare, judge, splits
from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.design import candidates_in, choose_trials, design
from analysis.answer.optimum import Box
from analysis.answer.simulate import grid, power, simulate, write_runs
from analysis.data.points import Points
from analysis.data.table import read_table
from analysis.fit import fit
from analysis.fit.intervals import bootstrap
from analysis.laws import named, published_vector

LAW, TRUTH = named("sparse_published"), published_vector()
PLAN = grid([3e7, 1e8, 3e8, 1e9], [1, 0.5, 0.25, 0.125], [1.3e8, 5e8], [1, 2, 4, 8, 16])
BOX, BUDGET, UNIQUE = Box((1e6, 1e10), (0.125, 1.0), (1.0, 16.0)), 3e19, 5e8


@pytest.fixture(scope="module")
def draws():
    return bootstrap(fit(LAW, simulate(LAW, TRUTH, PLAN, seed=1), delta=1e-2), 300)


def test_hold_outs_lie_beyond_what_is_left():
    runs = simulate(LAW, TRUTH, PLAN, replicates=2)
    held = splits(runs)
    assert set(held) == {"compute", "epochs", "sparsity", "size"}
    cost = ACTIVE.of(runs.points)
    assert cost[held["compute"]].min() > cost[~held["compute"]].max()
    assert set(runs.points.density[held["sparsity"]]) == {0.125}
    for mask in held.values():
        assert not set(runs.group[mask]) & set(runs.group[~mask]), "replicates stay together"


def test_densities_that_differ_by_less_than_a_tenth_are_held_out_together():
    nearly = np.repeat([0.25, 0.2508, 0.2516, 0.2524], 3)
    sizes, density = np.tile([3e6, 1e7, 3e7], 8), np.append(nearly, np.repeat([0.5, 1.0], 6))
    held = splits(simulate(LAW, TRUTH, Points.at(sizes, density, 1e8, 4e8)))
    assert set(density[held["sparsity"]]) == set(nearly)


def test_the_law_that_made_the_table_extrapolates_better_than_one_that_cannot_bend():
    runs = simulate(LAW, TRUTH, PLAN, noise=0.003)
    result = compare(runs, ["sparse_published", "sparse_small"], delta=1e-2, draws=30)
    assert result.chosen == "sparse_published"
    assert "sparse_published misses held-out runs by" in result.why
    good, poor = (result.trial(name, "epochs") for name in ("sparse_published", "sparse_small"))
    assert good.rmse < poor.rmse
    assert good.coverage > 0.8


def test_a_hold_out_that_leaves_too_little_is_said_and_not_an_error():
    runs = simulate(LAW, TRUTH, grid([1e8, 3e8, 1e9], [1, 0.5], [1e9], [1, 4, 16]), noise=0.003)
    result = compare(runs, ["sparse_small"], draws=20)
    assert any("sizes at one density needed" in reason for t in result.trials for reason in t.lacking)


def test_a_law_that_is_asked_for_and_does_not_suit_the_table_is_listed_with_the_reason():
    runs = simulate(LAW, TRUTH, grid([1e8, 3e8, 1e9], [1, 0.5], [1e9], [1, 4, 16]), noise=0.003)
    result = compare(runs, ["chinchilla"])
    assert result.chosen is None
    assert result.why == "no law could be tried on any hold-out"
    assert {trial.law for trial in result.trials} == {"chinchilla"}
    assert all("ignores density, which varies in this table" in trial.lacking for trial in result.trials)


def test_a_separate_table_can_be_the_judge(isoloss, held_out):
    trial = judge(named("sparse_small"), isoloss, held_out, draws=20)
    assert trial.held_out == 11
    assert 0.01 < trial.rmse < 0.2


def test_a_design_shrinks_the_uncertainty_and_keeps_its_limits(draws):
    chosen = design(draws, PLAN, 10, budget=BUDGET, unique=UNIQUE, box=BOX, limit=1e19)
    assert chosen.target == "density"
    assert chosen.value > 0
    assert np.all(np.diff(chosen.sd) < 0)
    assert chosen.cost.sum() <= 1e19
    assert np.bincount(chosen.rows).max() <= 2
    record = chosen.plan()[0]
    assert record["tokens"] == pytest.approx(record["unique_tokens"] * record["epochs"])
    assert record["active"] == pytest.approx(record["dense_equivalent"] * record["density"])


def test_a_designed_batch_beats_a_random_one_of_the_same_cost(draws):
    """The design's promise, kept by a real refit: narrower than random trials, over a few draws of
    chance.
    """
    chosen = design(draws, PLAN, 12, budget=BUDGET, unique=UNIQUE, box=BOX)
    generator = np.random.default_rng(0)
    cost = ACTIVE.of(PLAN)
    random = [
        design(
            draws, PLAN.take(generator.choice(len(PLAN), 12, replace=False)), 12, budget=BUDGET, unique=UNIQUE, box=BOX
        )
        for _ in range(5)
    ]
    assert chosen.sd[-1] < min(other.sd[-1] for other in random)
    assert chosen.cost.sum() < np.median([other.cost.sum() for other in random]) < cost.sum()


def test_a_region_is_pinned_down_by_trials_near_it_and_an_exponent_needs_a_law_that_has_one(draws):
    question = {"budget": BUDGET, "unique": UNIQUE, "box": BOX}
    region = Points.at([3e8, 5e8], 0.25, 5e8, 8e9)
    chosen = design(draws, PLAN, 6, aim="region", region=region, **question)
    assert chosen.target == "region"
    assert np.all(np.diff(chosen.sd) < 0)
    nearer = design(draws, region, 2, aim="region", region=region, noise=1e-3, **question)
    assert nearer.sd[-1] < 0.6 * chosen.sd[0], "the region itself teaches most of the region"
    spread = np.std(draws.fit.law.log_loss(draws.theta, region), axis=0, ddof=1)
    assert chosen.sd[0] == pytest.approx(np.sqrt(np.mean(spread**2)), rel=1e-6)
    assert design(draws, PLAN, 2, aim="saving", **question).target == "advantage"
    with pytest.raises(ValueError, match="ties alpha and beta"):
        design(draws, PLAN, 2, aim="exponent", **question)
    with pytest.raises(ValueError, match="needs the points of a region"):
        design(draws, PLAN, 2, aim="region", **question)


def test_a_design_for_the_exponent_pins_it_down():
    law = named("chinchilla")
    theta = law.vector({"ln_A": 6.2, "ln_B": 7.9, "ln_E": 0.53, "alpha": 0.36, "beta": 0.41})
    plan = Points.at(*np.array([(n, 1, d, d) for n in (1e8, 3e8, 1e9, 3e9) for d in (1e9, 4e9, 1.6e10, 6e10)]).T)
    fresh = bootstrap(fit(law, simulate(law, theta, plan, noise=0.005), delta=1e-2), 150)
    chosen = design(fresh, plan, 4, budget=1e20, unique=None, box=BOX, aim="exponent")
    assert chosen.value == pytest.approx(0.41 / 0.77, abs=0.06)
    assert chosen.sd[-1] < chosen.sd[0]
    odd = Cost("odd", "FLOP", 1.0, size=0.75, tokens=1.1)
    alpha, beta = (fresh.fit.stored[name] for name in ("alpha", "beta"))
    measured = design(fresh, plan, 4, budget=1e20, unique=None, box=BOX, aim="exponent", cost=odd)
    assert measured.value == pytest.approx(beta / (1.1 * alpha + 0.75 * beta))


def test_a_design_that_cannot_help_returns_nothing(draws):
    chosen = design(draws, PLAN, 3, budget=BUDGET, unique=UNIQUE, box=BOX, limit=1.0)
    assert len(chosen.rows) == 0
    assert len(chosen.plan()) == 0
    with pytest.raises(ValueError, match="ask for at least one"):
        design(draws, PLAN, 0, budget=BUDGET, unique=UNIQUE, box=BOX)
    with pytest.raises(ValueError, match="raise the budget or widen the box"):
        design(draws, PLAN, 1, budget=1.0, unique=UNIQUE, box=BOX)


def test_what_is_known_already_is_not_bought():
    """Draws that agree everywhere, and runs without noise: nothing to learn, and nothing divided by
    it.
    """
    known, unsure = np.zeros((50, 2)), np.random.default_rng(0).standard_normal((50, 1))
    rows, sds = choose_trials(known, known[:, :1], 0.0, np.ones(2), trials=3)
    assert not len(rows)
    assert sds.tolist() == [0.0]
    rows, sds = choose_trials(np.hstack([known, unsure]), 2.0 * unsure, 0.0, np.ones(3), trials=3)
    assert rows.tolist() == [2]
    assert sds[-1] == pytest.approx(0.0, abs=1e-6)


def test_candidates_fill_a_box_up_to_a_price():
    points = candidates_in(BOX, [1e8, 5e8], 200, most=1e18)
    assert set(points.unique) == {1e8, 5e8}
    assert ACTIVE.of(points).max() <= 1e18
    assert points.density.min() < 0.2
    assert points.density.max() > 0.8
    with pytest.raises(ValueError, match="the cheapest costs"):
        candidates_in(BOX, [1e8], 50, most=1.0)


def test_candidates_train_as_many_tokens_as_they_may():
    points = candidates_in(BOX, [1e8, 5e8], 200, tokens=(1e9, 2e9))
    assert 1e9 <= points.tokens.min() <= points.tokens.max() <= 2e9
    assert set(points.unique) == {1e8, 5e8}
    with pytest.raises(ValueError, match=r"trains 1e\+12 to 1e\+13 tokens; they train .*: widen the tokens"):
        candidates_in(BOX, [1e8], 50, tokens=(1e12, 1e13))


def test_simulated_noise_is_what_was_asked_for():
    runs = simulate(LAW, TRUTH, PLAN, noise=0.02, replicates=20, tail="laplace", seed=3)
    residual = np.log(runs.loss / LAW.predict(TRUTH, runs.points))
    assert residual.std() == pytest.approx(0.02, rel=0.05)
    assert len(set(runs.group)) == len(PLAN)
    clean = simulate(LAW, TRUTH, PLAN, noise=0.0)
    assert clean.loss == pytest.approx(LAW.predict(TRUTH, PLAN), rel=1e-14)


@pytest.mark.parametrize("bad", [{"noise": -1.0}, {"replicates": 0}, {"tail": "cauchy"}])
def test_impossible_simulations_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        simulate(LAW, TRUTH, PLAN, **bad)


def test_a_written_table_is_read_back_without_a_mapping(tmp_path):
    runs = simulate(LAW, TRUTH, PLAN, replicates=2)
    for name in ("t.csv", "t.parquet"):
        back = read_table(write_runs(runs, tmp_path / name))
        assert back.loss == pytest.approx(runs.loss, rel=1e-12)
        assert np.array_equal(back.group, runs.group)
    with pytest.raises(ValueError, match="cannot write"):
        write_runs(runs, tmp_path / "t.txt")


def test_power_says_beforehand_what_a_plan_would_tell():
    """Also the calibration in miniature, with room for what eight tables differ by chance and by
    the machine's rounding: the whole study is benchmarks/analysis_calibration.py.
    """
    question = {"budget": BUDGET, "unique": UNIQUE, "box": BOX, "tables": 8, "bootstraps": 30, "delta": 1e-2}
    found, again = (power(LAW, TRUTH, PLAN, replicates=each, **question) for each in (1, 4))
    assert found.loss_coverage > 0.8
    assert found.density_coverage >= 0.6
    assert again.density_width < 0.8 * found.density_width
    assert again.cost == pytest.approx(4 * found.cost)
    assert 0 <= again.regret < 0.01
