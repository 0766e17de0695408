"""Points become trials in one way; isoFLOP slices meet their budgets; fields can be set by name."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from raysparse import counts, ladder
from raysparse.console import arguments, script
from raysparse.spec import OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.isoflop import TOLERANCE, isoflop
from raysparse.sweep.planners.recipe import Recipe

RECIPE = Recipe(
    vocab_size=257, context=128, sparsity=SparsitySpec(update_every=20), optimizer=OptimizerSpec(batch_sequences=4)
)


# ---------------------------------------------------------------- recipe and grid


def test_a_size_gets_its_own_rate_unless_one_is_given():
    point = ("laptop-s", 0.25, 50_000, 3)
    assert RECIPE.spec(*point).optimizer.lr == ladder.DENSE_LR["laptop-s"]
    assert RECIPE.replace(lr=1e-4).spec(*point).optimizer.lr == 1e-4
    assert RECIPE.replace(lr=1e-4).spec(*point, settings={"optimizer.lr": 2e-4}).optimizer.lr == 2e-4


@pytest.mark.parametrize("name", ["dc-20m", "dc-3b84", "smet-7b"])
def test_a_size_without_a_published_rate_gets_one_by_width(name):
    model = ladder.model(name)
    assert not ladder.has_own_rate(model)
    assert ladder.dense_lr(model) == pytest.approx(0.0226 / model.hidden**0.5)


@pytest.mark.parametrize("name", ladder.DENSE_LR)
def test_the_formula_is_within_a_factor_of_about_two_of_every_rate_in_the_table(name):
    by_width = ladder.RATE_AT_WIDTH_1 * ladder.model(name).hidden ** -0.5
    assert 0.49 <= by_width / ladder.DENSE_LR[name] <= 2.05


def test_density_1_is_dense_whatever_is_said_of_sparse_storage():
    settings = {"sparsity.method": "set", "optimizer.weight_decay": 1.0}
    tiles = RECIPE.replace(sparsity=RECIPE.sparsity.replace(layout="tile", block=8))
    spec = tiles.spec("laptop-xs", 1.0, 50_000, 3, settings=settings)
    assert (spec.sparsity.method, spec.sparsity.layout, spec.optimizer.weight_decay) == ("dense", "element", 1.0)
    assert tiles.spec("laptop-xs", 0.5, 50_000, 3, settings=settings).sparsity.method == "set"


def test_settings_are_axes_of_a_grid_and_stand_in_the_names():
    decays = {"optimizer.weight_decay": [0.0, 1.0, 3.0]}
    specs = grid(RECIPE, sizes=["laptop-xs"], densities=[1, 0.25], unique_tokens=[50_000], epochs=[3], settings=decays)
    assert len({spec.trial_id for spec in specs}) == 6
    assert specs[1].name == "laptop-xs d=1 U=50000 x3 weight_decay=1"


def test_epochs_4_and_4_0_are_one_trial():
    assert RECIPE.spec("laptop-xs", 1, 50_000, 4).trial_id == RECIPE.spec("laptop-xs", 1.0, 50_000, 4.0).trial_id


@given(active=st.floats(2e4, 5e5), density=st.floats(0.1, 1.0))
def test_a_shape_between_the_named_ones_has_about_the_weights_that_were_asked_for(active, density):
    model = ladder.shape_near(active, density, vocab_size=257, context=128)
    got = counts.parameters(model, SparsitySpec(density=density)).active_non_embedding
    assert abs(got / active - 1) < 0.35
    assert model.hidden % model.heads == 0
    assert model.name in ladder.SHAPES or model.name.startswith(f"h{model.hidden}-i{model.intermediate}-")


def test_a_named_size_is_found_by_its_own_weights():
    for name in ("laptop-s", "laptop-m"):
        model = ladder.model(name, vocab_size=257, context=128)
        weights = counts.parameters(model, SparsitySpec(method="dense", density=1.0)).active_non_embedding
        assert ladder.shape_near(weights, 1.0, vocab_size=257, context=128) == model


# ---------------------------------------------------------------- isoFLOP


@given(
    budget=st.floats(2e10, 2e12),
    unique=st.integers(20_000, 200_000),
    unit=st.sampled_from(["flops_active", "flops_executed"]),
)
def test_every_isoflop_trial_meets_its_budget_within_a_hundredth(budget, unique, unit):
    axes = {"sizes": ["laptop-xs", "laptop-m"], "densities": [1.0, 0.25], "unique_tokens": [unique]}
    try:
        specs, dropped = isoflop(RECIPE, budgets=[budget], unit=unit, **axes)
    except ValueError:
        reject()  # no point meets it
    assert len(specs) + len(dropped) == 4
    for spec in specs:
        active, executed = counts.flops(spec)
        assert abs((active if unit == "flops_active" else executed) / budget - 1) <= TOLERANCE


@given(steps=st.integers(1, 5000), unique=st.integers(1_000, 300_000))
def test_epochs_for_a_budget_are_the_inverse_of_its_flops(steps, unique):
    spec = RECIPE.spec("laptop-xs", 0.5, unique, 4 * 128 * 2 * steps / unique + 4)
    for number, unit in enumerate(("flops_active", "flops_executed")):
        epochs = counts.epochs_for(spec, counts.flops(spec)[number], unit)
        assert spec.replace(data=spec.data.replace(epochs=epochs)).steps == spec.steps


def test_a_point_that_misses_its_budget_is_left_out_by_name():
    axes = {"sizes": ["laptop-xs", "laptop-l"], "densities": [1.0], "unique_tokens": [50_000]}
    _, dropped = isoflop(RECIPE, budgets=[2e10], **axes)
    assert dropped
    assert all("laptop-l" in line for line in dropped)


# ---------------------------------------------------------------- --set


def parsed(*values: str) -> argparse.Namespace:
    return script.parser("", name="grid").parse_args([word for value in values for word in ("--set", value)])


def test_set_reaches_any_field_and_several_values_make_an_axis():
    args = parsed("optimizer.weight_decay=0,1,3", "sparsity.prune=soft_magnitude", "optimizer.clip=0")
    assert arguments.fields_from(args) == {
        "optimizer.weight_decay": [0.0, 1.0, 3.0], "sparsity.prune": ["soft_magnitude"], "optimizer.clip": [0.0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="has several values, and this command takes one"):
        arguments.fixed_from(args)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("optimizer.weightdecay=1", "no such field; did you mean 'optimizer.weight_decay'"),
        ("optimizer.weight_decay", "not of the form FIELD=VALUE"),
        ("optimizer.weight_decay=much", "optimizer.weight_decay is 'much', expected a number"),
        ("sparsity.update_every=1.5", "sparsity.update_every is '1.5', expected a whole number"),
        ("sparsity.prune=best", "sparsity.prune is 'best', expected one of magnitude, soft_magnitude"),
        ("data.epochs=3", "is said by --epochs"),
    ],
)
def test_a_wrong_set_is_one_line(value, message):
    with pytest.raises(ValueError, match=message):
        arguments.fields_from(parsed(value))


def test_a_wrong_value_of_a_plan_is_told_with_its_path():
    plan = Plan(specs=(RECIPE.spec("laptop-xs", 0.5, 50_000, 3),)).to_dict()
    plan["specs"][0]["optimizer"]["lr"] = "fast"
    with pytest.raises(ValueError, match=r"specs\[0\]: optimizer: optimizer\.lr is 'fast', expected a number"):
        Plan.from_dict(plan)


def test_every_field_of_a_trial_can_be_read_and_written_by_its_name():
    from raysparse.record import leaves

    spec = RECIPE.spec("laptop-xs", 0.5, 50_000, 3)
    for path, _ in leaves(TrialSpec):
        assert spec.with_field(path, spec.at(path)) == spec
