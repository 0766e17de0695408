"""A plan survives JSON, its cost is the sum of its trials, and a folder of another plan is refused
with the difference.
"""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.spec import OptimizerSpec, SparsitySpec
from raysparse.sweep.budget import Budget, Work
from raysparse.sweep.plan import Plan, load
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.isoflop import isoflop
from raysparse.sweep.planners.recipe import Recipe
from tests.sweep.plans import small_plan


def test_a_grid_holds_every_combination_once_and_is_dense_at_density_1():
    plan = small_plan("text", sizes=("laptop-xs", "laptop-s"), densities=(1.0, 0.5, 0.25), epochs=(1, 2, 4))
    assert len(plan.specs) == len(set(plan.trial_ids)) == 2 * 3 * 3
    assert {s.sparsity.method for s in plan.specs if s.sparsity.density == 1.0} == {"dense"}
    assert len({s.optimizer.lr for s in plan.specs}) == 2, "each size has its own learning rate"


def test_a_plan_survives_json():
    plan = small_plan("text", budget=Budget(total=1e12, per_trial=1e11))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_the_cost_is_the_sum_and_the_peak_of_its_trials():
    plan = small_plan("text")
    total, parts = plan.total(), [plan.cost(spec) for spec in plan.specs]
    assert total.trials == len(parts)
    assert total.tokens == sum(spec.tokens for spec in plan.specs)
    assert total.flops_executed == pytest.approx(sum(p.flops_executed for p in parts))
    assert total.peak_bytes == max(p.peak_bytes for p in parts)
    assert 0 < total.flops_active < total.flops_executed


def test_a_budget_counts_the_products_of_the_device_that_trains():
    """At this density a CPU skips inactive tiles and a GPU does not."""
    recipe = Recipe(
        vocab_size=257, context=64, sparsity=SparsitySpec(layout="tile", block=64), precision="bf16_master",
        optimizer=OptimizerSpec(batch_sequences=4),
    )  # fmt: skip
    axes = {"sizes": ["dc-40m"], "densities": [0.3], "unique_tokens": [4_097]}
    gpu = Plan(specs=grid(recipe, epochs=[2], **axes), placement=Placement(device="cuda"))
    [spec] = gpu.specs
    cpu, cost = gpu.replace(placement=Placement()), gpu.cost(spec)
    assert gpu.price(spec) == pytest.approx(cost.flops_executed)
    assert cpu.price(spec) == pytest.approx(cost.flops_active)
    assert gpu.price(spec) > 2 * cpu.price(spec)
    assert gpu.price_of(spec, Work(1)) == pytest.approx(gpu.price(spec) / spec.steps)
    assert gpu.seconds(spec) > cpu.seconds(spec)
    slice_of = {"budgets": [cost.flops_executed], "unit": "flops_executed", "device": "cuda"}
    assert isoflop(recipe, **slice_of, **axes)[0][0].data.epochs == pytest.approx(2.0, rel=0.01)


@given(share=st.floats(0.0, 1.5), per_trial=st.floats(0.1, 1.0))
def test_the_trials_that_fit_meet_the_budget_and_none_that_would_fit_is_left_out(share, per_trial):
    plan = small_plan("text", densities=(1.0, 0.5, 0.25), epochs=(1, 2, 4))
    dearest, whole = max(map(plan.price, plan.specs)), sum(map(plan.price, plan.specs))
    plan = plan.replace(budget=Budget(per_trial=per_trial * dearest))
    chosen = plan.affordable(dict.fromkeys(plan.specs, 0), share * whole)
    assert sum(map(plan.price, chosen)) <= share * whole
    assert all(plan.price(spec) <= per_trial * dearest for spec in chosen)
    left = share * whole - sum(map(plan.price, chosen))
    assert all(plan.price(s) > left or plan.price(s) > per_trial * dearest for s in plan.specs if s not in chosen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ["laptop-xxl"]}, "no size 'laptop-xxl'.*laptop-xs"),
        ({"densities": [0.0]}, r"sparsity\.density is 0\.0"),
        ({"densities": []}, "densities is .* at least one value"),
        ({"epochs": [4, 4]}, "same trial more than once"),
        ({"method": "lottery"}, r"sparsity\.method is 'lottery', expected one of dense"),
    ],
)
def test_a_wrong_grid_is_refused_by_name(changes, message):
    values = {"sizes": ["laptop-xs"], "densities": [0.5], "unique_tokens": [65_536], "epochs": [4], **changes}
    method = values.pop("method", "smet")
    with pytest.raises(ValueError, match=message):
        Plan(specs=grid(Recipe(vocab_size=257, method=method), **values))


def test_the_folder_of_another_plan_is_refused_with_the_difference(tmp_path):
    folder = Folder(tmp_path)
    small_plan("text").save(folder)
    with pytest.raises(
        ValueError, match=r"another plan: data\.epochs is 1, 2 there and 1, 4 here; choose another --name"
    ):
        small_plan("text", epochs=(1, 4)).save(folder)
    with pytest.raises(ValueError, match=r"data\.corpus is text there and other here"):
        small_plan("other").check(folder)
    with pytest.raises(ValueError, match=r"placement\.threads is 1 there and 2 here"):
        small_plan("text").replace(placement=Placement(threads=2)).check(folder)
    assert load(folder) == small_plan("text"), "a refusal leaves the folder as it was"


def test_a_plan_may_grow_and_its_budget_may_change(tmp_path):
    folder = Folder(tmp_path)
    small_plan("text").save(folder)
    grown = small_plan("text", epochs=(1, 2, 4), budget=Budget(total=1e15))
    grown.save(folder)
    assert load(folder) == grown


def test_names_are_no_identity(tmp_path):
    plan = small_plan("text")
    plan.save(Folder(tmp_path))
    renamed = dataclasses.replace(plan, specs=tuple(spec.replace(name="x") for spec in plan.specs))
    renamed.check(Folder(tmp_path))


def test_a_folder_without_a_plan_is_no_run_folder(tmp_path):
    with pytest.raises(ValueError, match="not a run folder; check the path, or --name and --storage"):
        load(Folder(tmp_path))


def test_a_damaged_plan_is_named(tmp_path):
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is not valid JSON"):
        load(Folder(tmp_path))
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="at least one trial"):
        load(Folder(tmp_path))
