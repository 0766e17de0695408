"""Searches over made-up losses, without training: whatever the sampler, nothing is proposed that
the budget cannot pay, nothing twice, and the same knowledge gives the same suggestion.
"""

from __future__ import annotations

import json
import math
import random
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse import counts
from raysparse.placement import Placement
from raysparse.results import Evaluation, Outcome, make_row
from raysparse.run_folder import STUDY, RunFolder
from raysparse.spec import OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.books import known_of
from raysparse.sweep.budget import Budget
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners import samplers
from raysparse.sweep.planners.adaptive import Adaptive
from raysparse.sweep.planners.base import RUNNING, Known, Planner, Purse
from raysparse.sweep.planners.candidates import COUNT, SEEDS, Maker, fresh, spread_trials
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.samplers import NAMES
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Axis, Space
from raysparse.sweep.planners.tune import SETTINGS, Tune, spread_points

RECIPE = Recipe(
    vocab_size=257, context=64, sparsity=SparsitySpec(update_every=20), optimizer=OptimizerSpec(batch_sequences=4)
)
AXES = ["size=laptop-xs,laptop-s", "density=1,0.25", "epochs=2..16", "weight_decay=0.1..10"]


def search(sampler: str = "law", **changes) -> Search:
    return Search(recipe=RECIPE, space=Space.parse(AXES, 257), unique_tokens=20_000, sampler=sampler, **changes)


def tune(densities: tuple[float, ...] = (1.0, 0.25)) -> Tune:
    axes = {"sizes": ["laptop-xs"], "densities": densities, "unique_tokens": [20_000], "epochs": [2, 8]}
    return Tune(points=grid(RECIPE, **axes), space=Space.parse(["weight_decay=0.1..10", "lr=0.5..2"], 257))


def price(spec: TrialSpec) -> float:
    return counts.flops(spec)[1]


def loss_of(spec: TrialSpec) -> float:
    size = counts.parameters(spec.model, spec.sparsity).active_non_embedding
    off = math.log(spec.optimizer.weight_decay / 1.5) ** 2 + math.log(spec.optimizer.lr * 300) ** 2
    return 2.0 + 0.2 * (5e4 / size) ** 0.3 + 0.5 / spec.data.epochs**0.6 + 0.02 * off * spec.data.epochs**0.5


def ended(spec: TrialSpec, status: str = "completed", noise: float = 0.0) -> Known:
    loss = loss_of(spec) + noise * float(np.random.default_rng(int(spec.trial_id, 16)).standard_normal())
    end = Evaluation(spec.steps, spec.tokens, loss)
    more = {"validation_loss": loss} if status == "completed" else {"reason": "made up"}
    outcome = Outcome(status=status, evaluations=(end,), steps=spec.steps, tokens=spec.tokens, **more)
    return known_of(spec, make_row(spec, Placement(), outcome))


def drive(planner: Planner, budget: float, *, slots: int = 2, failing: int = 0, most: int = 14) -> list[Known]:
    """Ask and answer, `slots` at once, the oldest ending first; each `failing`-th one diverges."""
    known: list[Known] = []
    spent, running = 0.0, []
    for _ in range(4 * most):
        now = [*known, *(Known(spec, RUNNING) for spec in running)]
        asked = planner.ask(now, Purse(budget - spent, price)) if len(running) < slots and len(now) < most else []
        for spec in asked:
            assert spec.trial_id not in {trial.spec.trial_id for trial in now}, "proposed twice"
            spent += price(spec)
            assert spent <= budget * (1 + 1e-12), "more than the budget has"
            running.append(spec)
        if not asked:
            if not running:
                break
            spec = running.pop(0)
            known.append(ended(spec, "diverged" if failing and len(known) % failing == failing - 1 else "completed"))
    return known


# ---------------------------------------------------------------- whatever the sampler


def adaptive(**changes) -> Adaptive:
    axes = {"sizes": ["laptop-xs", "laptop-s", "laptop-m"], "densities": [1.0, 0.25], "unique_tokens": [20_000]}
    start = grid(RECIPE, **axes, epochs=[2, 4, 8], settings={"optimizer.weight_decay": [1.5]})
    compute = max(counts.flops(spec)[0] for spec in start)
    changes = {"settings": (("optimizer.weight_decay", 1.5),)} | changes
    return Adaptive(recipe=RECIPE, start=start, compute=compute, unique_tokens=20_000, **changes)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr("raysparse.sweep.planners.adaptive.BOOTSTRAPS", 30)


def test_an_adaptive_sweep_designs_affordable_trials_from_its_rows(few_draws):
    planner = adaptive(batch=2, narrow=1e-9)
    rows = [ended(spec, noise=0.05) for spec in planner.start]  # without noise all draws have one answer
    designed = planner.ask(rows, Purse(1e18, price))
    assert len(designed) == 2
    assert all(counts.flops(spec)[0] <= 1.05 * planner.compute for spec in designed)
    assert all(spec.optimizer.weight_decay == 1.5 for spec in designed)
    assert not {spec.trial_id for spec in designed} & {trial.spec.trial_id for trial in rows}
    left = 1.001 * price(designed[0])
    assert planner.ask(rows[::-1], Purse(left, price)) == designed[:1], "in any order of rows, as far as the money goes"


def test_an_adaptive_sweep_first_runs_its_start_and_ends_when_its_answer_is_narrow_enough(few_draws):
    planner = adaptive(narrow=100.0)
    assert planner.ask([], Purse(1e18, price)) == list(planner.start)
    waiting = [Known(planner.start[0], RUNNING), *map(ended, planner.start[1:])]
    assert planner.ask(waiting, Purse(1e18, price)) == [], "designs only from what has ended"
    assert planner.ask([ended(spec) for spec in planner.start], Purse(1e18, price)) == []


def test_an_adaptive_sweep_is_not_asked_about_less_than_it_trains(few_draws):
    least = min(counts.flops(spec)[0] for spec in adaptive().start)
    with pytest.raises(ValueError, match=r"adaptive.compute.*at least the .* of the cheapest first trial"):
        adaptive().replace(compute=0.99 * least)
    just = adaptive().replace(compute=least)
    designed = just.ask([ended(spec, noise=0.05) for spec in just.start], Purse(1e18, price))
    assert all(counts.flops(spec)[0] <= 1.05 * least for spec in designed)


@pytest.mark.parametrize("sampler", NAMES)
@settings(max_examples=3)
@given(buys=st.floats(1.0, 12.0), slots=st.integers(1, 3), failing=st.integers(0, 3))
def test_a_search_never_asks_for_more_than_the_budget_has(sampler, buys, slots, failing):
    cheapest = price(RECIPE.spec("laptop-xs", 1.0, 20_000, 2))
    known = drive(search(sampler), 1.05 * buys * cheapest, slots=slots, failing=failing)
    assert known


@settings(max_examples=3)
@given(buys=st.floats(1.0, 30.0), slots=st.integers(1, 3), failing=st.integers(0, 3))
def test_tuning_never_asks_for_more_than_the_budget_has(buys, slots, failing):
    cheapest = price(RECIPE.spec("laptop-xs", 1.0, 20_000, 2))
    assert drive(tune(), 1.05 * buys * cheapest, slots=slots, failing=failing)


@pytest.mark.parametrize("planner", [*(search(name) for name in NAMES), tune()], ids=[*NAMES, "tune"])
def test_the_same_knowledge_in_any_order_gives_the_same_suggestion(planner):
    """Whoever proposed what is known: a random search does so at once."""
    known = drive(search("random") if isinstance(planner, Search) else planner, 1e12, most=11)
    shuffled = random.Random(1).sample(known, len(known))
    running = [Known(shuffled[0].spec, RUNNING), *shuffled[1:]]
    purse = Purse(1e12, price)
    assert planner.ask(known, purse) == planner.ask(shuffled, purse)
    assert planner.ask(running, purse) == planner.ask(running[::-1], purse)


@pytest.mark.parametrize("sampler", ["law", "tpe"])
def test_a_search_finds_what_pays(sampler):
    """Not a benchmark: only that a dozen trials come nearer to the best than the first ones."""
    known = drive(search(sampler), 1e13, slots=1, most=16)
    losses = [trial.loss for trial in known]
    assert min(losses[5:]) < min(losses[:5])


def test_a_tuned_point_is_trained_near_its_best_decay():
    planner = tune(densities=(0.25,))
    known = drive(planner, 1e13, slots=1, most=15)
    for point in planner.points:
        mine = [trial for trial in known if planner.key(trial.spec) == planner.key(point)]
        assert mine, "every point gets a trial"
        assert 0.4 < min(mine, key=lambda trial: trial.loss).spec.optimizer.weight_decay < 6.0


@pytest.mark.parametrize("seed", [0, 8, 42])
def test_points_of_any_seed_are_tuned_and_at_most_so_often_replicated(seed):
    planner = tune()
    planner = planner.replace(points=tuple(point.replace(seed=seed) for point in planner.points))
    (first,) = planner.ask([], Purse(1e15, price))
    assert first.seed == seed
    taken, found = set(), []
    while (one := fresh(first, taken, first=seed)) is not None:
        taken.add(one.trial_id)
        found.append(one.seed)
    assert found == list(range(seed, seed + SEEDS))


def test_a_replicate_that_was_trained_has_no_more_of_them_than_its_first():
    spec, taken, last = tune().points[0], set(), None
    for _ in range(3 * SEEDS):  # what a search wishes may be the last replicate itself
        one = fresh(last or spec, taken)
        last = one or last
        taken.add(last.trial_id)
    assert len(taken) == SEEDS


def test_an_adaptive_sweep_runs_all_of_its_start_whatever_the_seeds():
    start = tuple(tune().points[0].replace(seed=seed) for seed in (*range(10), 42))
    planner = Adaptive(recipe=RECIPE, start=start, compute=1e13, unique_tokens=20_000)
    assert planner.ask([], Purse(1e15, price)) == list(start)


# ---------------------------------------------------------------- the space


@given(units=st.lists(st.floats(0.0, 0.999), min_size=4, max_size=4))
def test_a_place_is_a_trial_and_the_trial_says_its_place(units):
    space = Space.parse(AXES, 257)
    values = space.values(units)
    spec = space.trial(RECIPE, 20_000, values)
    assert space.values(space.units(space.values_of(spec))) == values


WHOLE = "batch_sequences=8..64"


def test_a_range_of_whole_numbers_is_searched_in_all_of_its_values():
    space = Space.parse(["size=laptop-xs", "density=1,0.5", "epochs=2..8", WHOLE], 257)
    trials = spread_trials(Maker(RECIPE, space, 20_000), seed=0)
    assert len(trials) > 0.9 * COUNT
    assert len({spec.trial_id for spec in trials.specs}) == len(trials), "each once"
    assert {8, 64} <= {spec.optimizer.batch_sequences for spec in trials.specs} <= set(range(8, 65))
    points = grid(RECIPE, sizes=["laptop-xs"], densities=[0.5], unique_tokens=[20_000], epochs=[2])
    specs = spread_points(points, Space.parse([WHOLE], 257), seed=0).specs
    assert len(specs) > SETTINGS // 2
    assert len({spec.trial_id for spec in specs}) == len(specs), "each once"


@pytest.mark.parametrize("scale", ["log", "linear"])
@given(unit=st.floats(0.0, 1.0), low=st.integers(1, 500), width=st.integers(1, 400))
def test_a_whole_number_is_found_at_its_own_place(scale, unit, low, width):
    axis = Axis(name="update_every", low=low, high=low + width, scale=scale)
    value = axis.outward(unit)
    assert isinstance(value, int)
    assert low <= value <= low + width
    assert axis.outward(axis.inward(value)) == value


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp", "nsga2"])
def test_what_a_sampler_wishes_of_whole_numbers_can_be_run(sampler):
    space = Space.parse(["size=laptop-xs", "density=1", "weight_decay=1..2", "epochs=2..8", WHOLE], 257)
    purse, maker = Purse(1e15, price), Maker(RECIPE, space, 20_000)
    known = [ended(spec) for spec in spread_trials(maker, seed=0).specs[:12]]
    found = list(islice(samplers.wishes(sampler, space, known, purse, largest=None, seed=1), 4))
    assert all(maker.trial(values) is not None for values in found), found


def test_a_rate_is_a_factor_on_the_sizes_own():
    space = Space.parse([*AXES, "lr=0.5..2"], 257)
    values = {"size": "laptop-s", "density": 1.0, "epochs": 4.0, "weight_decay": 1.0, "lr": 2.0}
    spec = space.trial(RECIPE, 20_000, values)
    assert spec.optimizer.lr == pytest.approx(6e-3)
    assert space.values_of(spec)["lr"] == pytest.approx(2.0)


# ---------------------------------------------------------------- the study in the folder


def test_the_study_mirrors_the_rows_and_is_made_again_when_it_is_lost_or_torn(tmp_path):
    folder, planner = RunFolder(tmp_path), search("tpe")
    known = drive(planner, 1e12, failing=4, most=8)
    for damage in (lambda path: None, lambda path: path.unlink(), lambda path: path.write_text('{"torn')):
        damage(tmp_path / STUDY) if (tmp_path / STUDY).exists() else None
        planner.mirror(folder, known, Purse(1e12, price))
        planner.mirror(folder, known, Purse(1e12, price))
        study = loaded(tmp_path / STUDY)
        assert sorted(t.user_attrs["trial_id"] for t in study.trials) == sorted(t.spec.trial_id for t in known)
        values = {t.user_attrs["trial_id"]: t.value for t in study.trials if t.state.name == "COMPLETE"}
        assert values == {t.spec.trial_id: t.loss for t in known if t.status == "completed"}


def loaded(path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=optuna.get_all_study_names(storage)[0], storage=storage)


@pytest.mark.parametrize("planner", [search("gp", trials=5), tune()], ids=["search", "tune"])
def test_a_plan_with_a_planner_survives_json(planner):
    plan = Plan(planner=planner, budget=Budget(total=1e12))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: search("tep"), "there is no sampler 'tep'; did you mean 'tpe'"),
        (lambda: Space.parse(["size=laptop-xs", "density=1", "epochs=4"], 257), "the space has no free setting"),
        (lambda: Space.parse(["weightdecay=1..2"], 257), "did you mean 'weight_decay'"),
        (lambda: Axis(name="epochs", low=4.0, high=2.0), "expected the lower end first"),
        (lambda: Axis(name="epochs", low=0.0, high=2.0), "starts above 0"),
        (lambda: Axis.parse("epochs", 257), "is no axis"),
        (lambda: Axis.parse("update_every=2.5..9", 257), "whole numbers at both ends"),
        (lambda: search().ask([], Purse(1.0, price)), "is below the cheapest trial"),
        (lambda: tune().ask([], Purse(1.0, price)), "is below the cheapest trial"),
        (lambda: search().ask([], Purse(math.inf, price)), "a search needs an end"),
        (lambda: Tune(points=tune().points, space=Space.parse(["epochs=1..2"], 257)), "settings only"),
    ],
)
def test_a_mistake_is_one_line(make, message):
    with pytest.raises(ValueError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_model_that_saw_one_length_is_not_asked_for_another_of_it():
    """Cheap first trials are short; a model that has seen no longer one would never want it."""
    space = Space.parse(["size=laptop-s", "density=1,0.25", "epochs=3,9,27", "weight_decay=0.1..10"], 257)
    planner = Search(recipe=RECIPE, space=space, unique_tokens=20_000, largest=1e18)
    short = [space.trial(RECIPE, 20_000, space.values([d, 0.1, w])) for d in (0.2, 0.8) for w in (0.1, 0.3, 0.6, 0.9)]
    (asked,) = planner.ask([ended(spec) for spec in short], Purse(1e18, price))
    assert asked.data.epochs == 27


def test_a_decay_of_0_may_be_asked_for_where_no_row_has_it():
    space = Space.parse(["size=laptop-s", "density=1,0.25", "epochs=3,9,27", "weight_decay=0,0.3,1,3"], 257)
    planner = Search(recipe=RECIPE, space=space, unique_tokens=20_000)
    places = [(d, e, w) for d in (0.2, 0.8) for e in (0.1, 0.9) for w in (0.4, 0.6, 0.9)]
    rows = [ended(space.trial(RECIPE, 20_000, space.values(place))) for place in places]
    assert len(planner.ask(rows, Purse(1e15, price))) == 1
    assert {trial.spec.optimizer.weight_decay for trial in rows} == {0.3, 1.0, 3.0}
