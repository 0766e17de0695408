"""The optimum: equal to brute force, inside its box, and honest about edges, data and what its law
can say.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.answer.costs import ACTIVE, EXECUTED, Cost, measured_cost
from analysis.answer.optimum import Box, flags, search
from analysis.answer.simulate import grid, simulate
from analysis.data.points import Points
from analysis.data.table import read_table
from analysis.laws import Law, Saturation, named, published_vector
from analysis.laws.density import PublishedFactor
from tests.analysis import tables
from tests.analysis.tables import laptop

LAW = named("sparse_published")
WIDE = Box((1e5, 1e13), (1 / 16, 1.0), (1.0, 1e4))


def random_law(seed):
    """A published-form law near plausible numbers, untied for odd seeds."""
    generator = np.random.default_rng(seed)
    theta = published_vector() * generator.normal(1.0, 0.08, 13)
    if seed % 2 == 0:
        return LAW, theta
    law = named("sparse_untied")
    values = dict(zip(LAW.names, theta, strict=True))
    return law, law.vector({**values, "beta": values["alpha"] * generator.uniform(0.85, 1.2)})


def brute_force(law, theta, box, budget, unique, cost=ACTIVE, fine=400):
    """Least loss over a fine grid of density and tokens, N the largest within budget and box (these
    laws' loss never rises with N), outside the box refused.
    """
    density = np.geomspace(*box.density, fine)[:, None]
    tokens = np.geomspace(max(unique * box.epochs[0], box.tokens[0]), min(unique * box.epochs[1], box.tokens[1]), fine)
    size = np.exp(cost.log_active(np.log(budget), np.log(tokens), np.log(density)))
    inside = size >= box.active[0]
    size = np.minimum(size, box.active[1])
    points = Points.at(
        size.ravel(), np.broadcast_to(density, size.shape).ravel(), unique, np.broadcast_to(tokens, size.shape).ravel()
    )
    return np.where(inside.ravel(), law.predict(theta, points), np.inf).min()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), scale=st.floats(-1.0, 2.5))
def test_the_optimum_agrees_with_brute_force_and_stays_in_its_box(seed, scale):
    law, theta = random_law(seed)
    box, unique = Box((1e6, 3e10), (1 / 16, 1.0), (1.0, 40.0)), 1e9
    cost = (ACTIVE, EXECUTED)[seed % 3 == 0]
    budget = 10**scale * unique**2
    found = search(law, theta, box, budget, unique, cost)
    least = brute_force(law, theta, box, budget, unique, cost)
    assert found.loss[0] <= least + 1e-7
    assert found.loss[0] == pytest.approx(least, abs=2e-4)
    point = found.point()
    assert law.predict(theta, point)[0] == pytest.approx(found.loss[0], rel=1e-12)
    assert cost.of(point)[0] <= budget * (1 + 1e-9), "the budget is a cap"
    for value, (low, high) in ((point.active, box.active), (point.density, box.density), (point.epochs, box.epochs)):
        assert low * (1 - 1e-9) <= value[0] <= high * (1 + 1e-9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), scale=st.floats(9.5, 13.0))
def test_a_law_that_over_fits_is_not_trained_past_its_best(seed, scale):
    """Against brute force over density, tokens and size; more money never makes it worse."""
    values = dict(zip(tables.LAW.names, tables.TRUTH, strict=True))
    generator = np.random.default_rng(seed)
    theta = tables.LAW.vector({**values, "ln_K": generator.uniform(-7, -3), "r": generator.uniform(0.2, 1.0)})
    box, unique, budget = Box((2e4, 1e6), (0.25, 1.0), (1.0, 32.0)), 5e4, 10**scale
    found = search(tables.LAW, np.stack([theta, theta]), box, [budget, 2 * budget], unique)
    density, epochs, size = np.meshgrid(*(np.geomspace(*side, 60) for side in (box.density, box.epochs, box.active)))
    points = Points.at(size.ravel(), density.ravel(), unique, unique * epochs.ravel())
    least = np.where(ACTIVE.of(points) <= budget, tables.LAW.predict(theta, points), np.inf).min()
    if np.isfinite(least):
        assert found.loss[0] <= least + 1e-4
        assert ACTIVE.of(found.point())[0] <= budget * (1 + 1e-9)
        assert found.loss[1] <= found.loss[0] + 1e-4


@settings(max_examples=25, deadline=None)
@given(ratio=st.floats(-0.5, 3.0), unique=st.floats(7.0, 11.0))
def test_with_tied_exponents_the_optimal_density_at_fixed_relative_compute_does_not_depend_on_data(ratio, unique):
    """L - E = U^-alpha h(N/U, D/U, d): the paper's headline cannot follow from the paper's law."""
    here, there = (search(LAW, published_vector(), WIDE, 10**ratio * u**2, u) for u in (10**unique, 1e9))
    assert here.density[0] == pytest.approx(there.density[0], rel=1e-3)
    assert here.epochs[0] == pytest.approx(there.epochs[0], rel=2e-2)


@pytest.mark.parametrize(
    "law",
    [
        named("sparse_untied"),
        Law("test", "R* a power of U", PublishedFactor(), Saturation("quadratic", unique=True)),
    ],
)
def test_untied_exponents_or_saturation_in_u_lift_the_invariance(law):
    values = dict(zip(LAW.names, published_vector(), strict=True)) | {"beta": 0.36, "v_D": 0.15, "v_N": -0.15}
    theta = law.vector({name: values[name] for name in law.names})
    densities = [search(law, theta, WIDE, 10 * u**2, u).density[0] for u in (1e8, 1e9, 1e10)]
    assert max(densities) / min(densities) > 1.1


def test_what_sparsity_saves_depends_on_where_the_budget_stands():
    """The published 8x is the top of a grid: less near one epoch, far more beyond it. The loss to
    reach is that of the dense optimum; what reaches it is searched for at falling budgets.
    """
    unique, saving = 2.6e9, []
    for ratio in (0.4, 300.0, 1e4):
        budget = ratio * unique**2
        dense = search(LAW, published_vector(), WIDE.dense(), budget, unique)
        less = np.geomspace(1, 1e3, 400)
        found = search(LAW, np.tile(published_vector(), (400, 1)), WIDE, budget / less, unique)
        saving.append(less[found.loss <= dense.loss * (1 + 1e-9)].max())
    assert saving[0] == pytest.approx(2.2, abs=0.2)
    assert saving[1] == pytest.approx(8.2, abs=1.0)
    assert saving[2] > 100


def test_with_any_unique_tokens_every_run_is_one_epoch():
    found = search(LAW, published_vector(), WIDE, 1e20, None)
    assert found.epochs[0] == 1.0
    assert found.unique[0] == found.tokens[0]
    limited = search(LAW, published_vector(), WIDE, 1e20, float(found.tokens[0]) / 20)
    assert found.loss[0] < limited.loss[0]


def test_executed_flops_make_sparsity_dearer():
    active, executed = (search(LAW, published_vector(), WIDE, 1e20, 2.6e9, cost) for cost in (ACTIVE, EXECUTED))
    assert executed.density[0] > active.density[0]
    assert executed.loss[0] > active.loss[0]


def test_a_batch_of_laws_gives_what_each_gives_alone():
    laws = np.stack([random_law(seed)[1] for seed in range(0, 10, 2)])
    budgets = np.geomspace(1e19, 1e21, 5)
    together = search(LAW, laws, WIDE, budgets, 2.6e9)
    for row in range(5):
        alone = search(LAW, laws[row], WIDE, budgets[row], 2.6e9)
        assert together.density[row] == pytest.approx(alone.density[0], rel=1e-12)


def test_a_budget_that_fits_no_run_is_nan_and_says_what_would_fit():
    box = Box((1e6, 1e8), (0.25, 1.0), (1.0, 4.0))
    found = search(LAW, published_vector(), box, 1e15, 1e9)
    assert np.isnan(found.loss[0])
    runs = simulate(LAW, published_vector(), grid([1e7, 1e8], [1, 0.5], [1e9], [1, 4]))
    assert "whose runs cost 6e+15 to 2.4e+18 FLOP" in flags(found, box, runs)[0]


def test_edges_extrapolation_and_compute_beyond_the_data_are_flagged():
    runs = simulate(LAW, published_vector(), grid([1e7, 1e8], [1, 0.5], [1e9], [1, 4]))
    box = Box.of(runs, margin=1000.0)
    said = " | ".join(flags(search(LAW, published_vector(), box, 1e18, 1e9), box, runs, budget=1e18))
    assert "density 0.5 lies on the lower edge of the box" in said
    said = " | ".join(flags(search(LAW, published_vector(), box, 1e20, 1e9), box, runs, budget=1e20))
    assert "epochs 4 lies on the upper edge of the box" in said
    assert "active 4.167e+09 lies outside the data [5e+06, 1e+08]" in said
    assert "the budget 1e+20 FLOP is 41.7x the largest run in the table" in said
    inside = search(LAW, published_vector(), WIDE, 1e18, 1e9)
    wide = simulate(LAW, published_vector(), grid([1e6, 1e11], [1, 0.05], [1e9], [1, 60]))
    assert flags(inside, WIDE, wide, budget=1e18) == ()


def test_seconds_are_a_budget_learned_from_the_table():
    runs = read_table(laptop())
    cost = measured_cost(runs)
    assert cost.unit == "s"
    assert cost.spread < 0.5
    found = search(
        named("sparse_small"), np.array([3.2, 5.1, -0.1, 0.3, -0.25, 1.6, 2.0]), Box.of(runs), 300.0, 4e5, cost
    )
    assert cost.of(found.point())[0] <= 300.0 * (1 + 1e-9)
    with pytest.raises(ValueError, match="0 rows have a positive 'seconds'"):
        measured_cost(simulate(LAW, published_vector(), grid([1e7], [1], [1e9], [1])))


def test_a_regression_returns_the_powers_that_made_the_column():
    runs = read_table(laptop())
    cost = measured_cost(runs, "flops_active")
    assert (cost.size, cost.tokens, cost.density) == pytest.approx((1.0, 1.0, 0.0), abs=1e-4)
    assert np.exp(cost.constant) == pytest.approx(6.0, rel=1e-3)


@pytest.mark.parametrize("bad", [{"active": (2.0, 1.0)}, {"density": (0.5, 1.5)}, {"epochs": (0.0, 1.0)}])
def test_an_impossible_box_is_refused(bad):
    with pytest.raises(ValueError, match=f"box: {next(iter(bad))} is"):
        Box(**{"active": (1.0, 2.0), "density": (0.5, 1.0), **bad})


def test_a_cost_that_does_not_limit_a_run_is_refused():
    with pytest.raises(ValueError, match="both must be positive"):
        Cost("free", "FLOP", 0.0, size=0.0)
