"""The answer with settings: what it keeps within, what its intervals hold, and how it says so; and
which columns of a table are settings at all.
"""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from analysis.answer.costs import ACTIVE
from analysis.answer.envelope import envelope, tuned_points
from analysis.answer.paths import draw
from analysis.answer.recommend import Interval
from analysis.answer.settings import answer, data_box
from analysis.answer.settle import settling
from analysis.answer.space import Space
from analysis.answer.study import analyse
from analysis.answer.surrogate import Surrogate, surrogate
from analysis.cli import main
from analysis.data.axes import Frame
from analysis.data.table import Runs, read_table
from analysis.fit.gaussian import fit_process
from analysis.laws import named
from analysis.show.best import lines
from analysis.show.plots.pictures import PICTURES
from analysis.show.report import write_runs_report
from analysis.show.report.summary import numbers
from analysis.show.report.summary import summary as told
from benchmarks import settings_truths as truths
from benchmarks.analysis_settings import judge, summary
from raysparse import results
from raysparse.spec import TrialSpec
from tests.analysis.tables import laptop
from tests.conftest import small_trial

MOVING, UNIQUE = truths.TRUTHS[0], truths.UNIQUE
BUDGET = 1e12


def alone(runs, **asked):
    """The answer of the smooth model alone (test_guided has the laws), which is quick to make."""
    return answer(runs, model=surrogate(runs), **asked)


@functools.cache
def found(seed=0, rows=40, budget=BUDGET):
    return alone(MOVING.table(rows, seed=seed), budget=budget, unique=UNIQUE, draws=52)


@functools.cache
def box_and_frame():
    runs = MOVING.table(30)
    return runs, data_box(runs), Frame.of(runs.points, runs.settings)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 4.0), st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4))
def test_no_place_of_a_space_costs_more_than_the_budget_or_leaves_the_box(above, place):
    runs, box, columns = box_and_frame()
    cheapest = Space.of(runs, box, ACTIVE, 1e30, UNIQUE, columns).cheapest()
    budget = cheapest * np.exp(0.01 + above)
    points, _, fits = Space.of(runs, box, ACTIVE, budget, UNIQUE, columns).at(np.array([place]))
    if fits[0]:
        assert ACTIVE.of(points)[0] <= budget * (1 + 1e-9)
        assert box.active[0] * 0.999 <= points.active[0] <= box.active[1] * 1.001
        assert box.epochs[0] * 0.999 <= points.epochs[0] <= box.epochs[1] * 1.001


def test_a_space_keeps_to_the_tokens_of_its_box_and_those_of_the_data_are_no_limit():
    runs, box, columns = box_and_frame()
    cube = np.random.default_rng(0).uniform(size=(50, 4))
    limited = dataclasses.replace(box, tokens=(6 * UNIQUE, 12 * UNIQUE))
    points, _, _ = Space.of(runs, limited, ACTIVE, 1e30, UNIQUE, columns).at(cube)
    assert 6 * 0.999 <= points.epochs.min() < points.epochs.max() <= 12 * 1.001
    beyond, _, _ = Space.of(runs, box, ACTIVE, 1e30, 4 * UNIQUE, columns).at(cube)
    assert beyond.tokens.max() > runs.points.tokens.max()
    with pytest.raises(ValueError, match=r"tokens are 1e\+03 to 2e\+03 epochs over 5e\+04 unique tokens, and the box"):
        Space.of(runs, dataclasses.replace(box, tokens=(5e7, 1e8)), ACTIVE, 1e30, UNIQUE, columns)


@pytest.fixture(scope="module")
def decays(tmp_path_factory):
    """A table with a setting, as a file, and its losses by id."""
    runs = MOVING.table(24)
    p, path = runs.points, tmp_path_factory.mktemp("decays") / "decays.csv"
    columns = {"id": [f"r{n}" for n in range(24)], "active": p.active, "density": p.density, "tokens": p.tokens}
    columns |= {"unique_tokens": p.unique, "loss": runs.loss, **runs.settings}
    csv.write_csv(pa.table(columns), path)
    return str(path), dict(zip(columns["id"], runs.loss, strict=True))


def test_rows_that_are_called_measured_have_the_losses_of_the_table(decays, capsys):
    path, losses = decays
    assert main(["optimum", path, "--law", "sparse_small", "--budget", "1e12", "--bootstraps", "10", "--unique", "5e4",
                 "--json"]) == 0  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 3
    assert {row["row"]: row["loss"] for row in rows} == pytest.approx({row["row"]: losses[row["row"]] for row in rows})


def test_a_report_of_points_at_their_best_settings_lists_what_was_measured(decays):
    runs = read_table(decays[0])
    points = tuned_points(surrogate(runs))
    study = analyse(points, law=named("sparse_small"), bootstraps=10, measured=runs)
    rows = study.recommendations[-1].rows
    assert rows
    assert all(row.loss == pytest.approx(decays[1][row.row]) for row in rows)
    said = PICTURES["predicted_vs_measured"].said_of
    assert (said(study).endswith("the model of all rows expects there."), study.word) == (True, "tuned")
    plain = dataclasses.replace(study, measured=None)
    assert (said(plain), plain.word) == (PICTURES["predicted_vs_measured"].caption, "measured")


def replicated():
    """Twelve points of two settings and two seeds each."""
    levels = np.meshgrid([1e5, 3e5, 1e6], [1.0, 0.5], [1e6, 4e6], [0.03, 0.3], [0, 1])
    size, density, tokens, decay, _ = (grid.ravel() for grid in levels)
    loss = 2 + 1e2 / size**0.4 + 1e2 / tokens**0.4 + 0.1 * (1 - density) + 0.02 * np.log(decay / 0.1) ** 2
    loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(len(size)))
    return Runs.from_arrays(size, density, 1e6, tokens, loss, {"weight_decay": decay})


def test_a_report_of_points_at_their_best_settings_counts_the_rows_of_the_table():
    runs = replicated()
    points = tuned_points(surrogate(runs))
    fixed = {"law": named("chinchilla"), "bootstraps": 10}
    study = analyse(points, measured=runs, **fixed)
    assert "48 usable runs at 12 points, 0 excluded" in told(study, "t")
    assert (numbers(study, "t")["rows"], numbers(study, "t")["fitted_to"]) == (48, 12)
    assert any("no replicates" in warning for warning in analyse(points, **fixed).warnings)
    assert not any("no replicates" in warning for warning in study.warnings)


def test_a_named_law_says_the_same_in_optimum_and_report(decays, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("analysis.show.plots.pictures.PICTURES", {})
    asked = [decays[0], "--law", "sparse_small", "--bootstraps", "10", "--json"]
    assert main(["optimum", *asked, "--budget", "1e12", "--unique", "5e4"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert main(["report", *asked, "--budgets", "1e12", "--output", str(tmp_path)]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["recommendations"]
    for name in ("active", "density", "epochs", "loss", "saving"):
        assert shown[name] == pytest.approx(alone[name], rel=1e-6)


def test_a_verb_that_ignores_settings_says_so(decays, capsys):
    assert main(["fit", decays[0], "--law", "sparse_small", "--bootstraps", "5"]) == 0
    assert "note: rows differ in weight_decay, which laws ignore" in capsys.readouterr().out


def test_tokens_that_are_asked_for_limit_the_answer_with_settings(decays, capsys):
    question = ["optimum", decays[0], "--budget", "1e12", "--unique", "5e4", "--json"]
    assert main([*question, "--tokens", "3e5:4e5"]) == 0
    epochs = json.loads(capsys.readouterr().out)["best"]["epochs"]
    assert 6 * 0.999 <= epochs["low"] <= epochs["high"] <= 8 * 1.001
    assert main([*question, "--tokens", "1e9:1e10"]) == 2
    assert "widen tokens or epochs" in capsys.readouterr().err


def test_the_answer_is_within_the_budget_and_its_intervals_hold_it():
    best = found()
    assert best.best.cost <= BUDGET * (1 + 1e-9)
    chosen = best.best
    for interval in (chosen.active, chosen.density, chosen.epochs, chosen.loss, *chosen.settings.values()):
        assert interval.low <= interval.value <= interval.high
    assert chosen.loss.high - chosen.loss.low > chosen.expected.high - chosen.expected.low


def test_a_model_that_takes_seeds_for_shape_is_less_sure_of_a_mean(monkeypatch):
    """Its draws are wider by the root of what its noise lacks, its best run is the same."""
    told = found()
    model = surrogate(MOVING.table(40))
    lacking = 4.0 * max(process.noise for process in model.processes)
    monkeypatch.setattr(Surrogate, "least_noise", property(lambda self: lacking))
    less_sure = alone(MOVING.table(40), budget=BUDGET, unique=UNIQUE, draws=52)
    assert less_sure.best.active.value == told.best.active.value
    assert less_sure.best.expected.value == told.best.expected.value
    assert less_sure.best.expected.high - less_sure.best.expected.low > 1.9 * (
        told.best.expected.high - told.best.expected.low
    )
    paths = draw(model.processes, 52)
    columns = model.process.inputs[:3]
    wide, mean = model.drawn(paths, columns), model.moments(columns)[0]
    monkeypatch.setattr(Surrogate, "least_noise", property(lambda self: 0.0))
    own = model.drawn(paths, columns) - mean
    factor = np.sqrt(lacking / model.noises(paths))
    np.testing.assert_allclose(wide - mean, factor[:, None] * own)
    assert factor.min() >= 2.0


def test_a_smaller_budget_never_promises_less_loss():
    assert found(budget=2.5e11).best.expected.value > found().best.expected.value - 0.01


def test_acting_on_it_beats_the_best_measured_row_and_its_intervals_hold_the_truth():
    """A small version of benchmarks/analysis_settings.py, on tables that it does not use."""
    told = []
    for seed in range(5):
        runs = MOVING.table(40, seed=seed)
        told.append(judge(MOVING, runs, found(seed), np.random.default_rng(seed)))
    all_of_them = summary(told)
    assert all_of_them["regret"]["mean"] < 0.6 * all_of_them["regret_of_best_row"]["mean"]
    assert all_of_them["coverage"]["run"] >= 0.8
    assert all_of_them["coverage"]["weight_decay"] >= 0.8


def test_two_kinds_that_are_equal_show_no_difference():
    """A truth that knows nothing of density: dense minus sparse is then 0 and in the interval."""
    runs = MOVING.table(40, seed=3)
    p = runs.points
    flat = 2.0 + 0.05 * (p.log_active - np.log(8e4)) ** 2 + 0.04 * np.log(runs.settings["weight_decay"]) ** 2
    noisy = flat + 0.02 * np.random.default_rng(0).standard_normal(len(flat))
    alike = Runs.from_arrays(p.active, p.density, p.unique, p.tokens, noisy, runs.settings)
    best = alone(alike, budget=BUDGET, unique=UNIQUE, draws=52)
    assert best.difference is not None
    assert not best.shown
    assert any(line.startswith("sparsity: no difference shown") for line in lines(best))


def test_what_would_settle_it_narrows_the_difference_and_has_its_price(monkeypatch):
    """Only where no difference is shown; each trial is one of the compared or measured runs."""
    runs = MOVING.table(40, seed=3)
    best = found(3)
    unsure = dataclasses.replace(best, difference=Interval(0.01, -0.05, 0.05))
    plan = settling(surrogate(runs), unsure, ACTIVE)
    assert plan.after < 0.8 * plan.before
    known = {row.row: row.cost for row in best.rows}
    known |= {"the best dense run": best.dense.cost, "the best sparse run": best.sparse.cost}
    assert plan.cost == pytest.approx(sum(known[name] * seeds for name, seeds in plan.trials), rel=1e-6)
    assert any(line.startswith("what would settle it:") for line in lines(unsure, plan))
    monkeypatch.setattr(Surrogate, "least_noise", property(lambda self: 0.08))
    assert settling(surrogate(runs), unsure, ACTIVE).before > 1.2 * plan.before, "as the printed interval is wider"
    sure = dataclasses.replace(best, difference=Interval(0.1, 0.05, 0.15))
    assert settling(surrogate(runs), sure, ACTIVE) is None


def test_a_table_of_dense_runs_is_answered_without_a_comparison():
    runs = MOVING.table(60, seed=1)
    best = alone(runs.take(runs.points.density == 1), budget=BUDGET, unique=UNIQUE, draws=26)
    assert best.sparse is None
    assert best.difference is None
    assert any("not compared" in line for line in lines(best))


def test_a_budget_below_the_cheapest_run_is_refused_with_its_cost():
    with pytest.raises(ValueError, match=r"fits no run inside the box; the cheapest there costs .* FLOP"):
        alone(MOVING.table(20), budget=1e6, unique=UNIQUE)


def test_a_box_that_has_no_size_that_was_trained_is_refused_by_its_sizes():
    runs = MOVING.table(20)
    box = dataclasses.replace(data_box(runs), active=(1e12, 1e12))
    with pytest.raises(ValueError, match=r"1e\+12 to 1e\+12 active weights at density .*; widen the box"):
        alone(runs, budget=BUDGET, unique=UNIQUE, box=box)


def test_a_budget_below_the_cheapest_run_costs_a_report_that_answer_only(monkeypatch, tmp_path):
    monkeypatch.setattr("analysis.show.report.guided", lambda runs, **_: surrogate(runs))
    one_law = {"law": named("sparse_small")}
    monkeypatch.setattr("analysis.show.report.analyse", lambda runs, **asked: analyse(runs, **(asked | one_law)))
    monkeypatch.setattr("analysis.show.plots.pictures.PICTURES", {})
    report = write_runs_report(MOVING.table(24), tmp_path, title="t", budgets=(1e3, BUDGET), bootstraps=5)
    (refused,), (answered,) = report.numbers["refused"], report.numbers["answers"]
    assert (refused["budget"], answered["budget"]) == (1e3, BUDGET)
    assert refused["reason"].startswith("the budget 1e+03 FLOP fits no run inside the box; the cheapest there costs")
    assert f"at most 1e+03 FLOP: no answer: {refused['reason']}" in report.summary
    assert f"at most {BUDGET:.3g} FLOP, train:" in report.summary


def test_a_u_outside_the_data_is_said():
    best = alone(MOVING.table(30), budget=1e13, unique=4 * UNIQUE, draws=26)
    assert any("lies outside the data" in warning for warning in best.warnings)
    assert best.rows == ()


def test_the_lines_name_every_setting_the_best_rows_and_the_loss():
    text = "\n".join(lines(found()))
    assert f"at most {BUDGET:.3g} FLOP" in text
    for word in (
        "active parameters",
        "density",
        "epochs",
        "weight_decay",
        "loss of one run",
        "best dense",
        "best sparse",
    ):
        assert word in text
    assert all(row.row in text for row in found().rows)


def test_drawn_functions_have_the_posteriors_mean_and_spread():
    generator = np.random.default_rng(2)
    inputs, at = generator.uniform(-1, 1, (20, 2)), generator.uniform(-1, 1, (5, 2))
    values = np.sin(2 * inputs[:, 0]) + inputs[:, 1] ** 2 + 0.1 * generator.normal(size=20)
    processes = fit_process(inputs, values, 0.1, np.array([0.0, 1.0]), np.ones(20))
    paths = draw(processes, 4000, seed=1)
    drawn = paths.at(at)
    mean, sd = processes[0].predict(at)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(drawn.std(axis=0), sd, rtol=0.25)
    np.testing.assert_allclose(paths.each(np.broadcast_to(at, (len(paths), 5, 2))), drawn, atol=1e-9)


@pytest.mark.parametrize("diverged", [False, True])
def test_the_envelope_is_not_biased_by_taking_a_minimum(diverged):
    """Five settings a point, noise .02: the least row is too low or badly set, the envelope is
    near the truth in the mean; where runs with high decay are nats above all others to within half
    of the noise.
    """
    errors, factors = [], []
    for seed in range(2):
        generator = np.random.default_rng(seed)
        p = MOVING.table(18, seed=seed).points.take(np.repeat(np.arange(18), 5))
        off = generator.uniform(-1.2, 1.2, len(p))
        decay = truths.best_decay(p) * np.exp(off)
        loss = MOVING.loss(p, {"weight_decay": decay}) + 0.02 * generator.standard_normal(len(p))
        loss = loss + 3.0 * (off > 0.9) if diverged else loss
        tuned = envelope(Runs.from_arrays(p.active, p.density, p.unique, p.tokens, loss, {"weight_decay": decay}))
        assert len(tuned.runs) == 18
        assert set(tuned.rows) == {5}
        errors.append(np.mean(tuned.runs.loss - truths.envelope(tuned.runs.points)))
        factors.append(np.abs(np.log(tuned.settings["weight_decay"] / truths.best_decay(tuned.runs.points))))
    assert abs(np.mean(errors)) < (0.01 if diverged else 0.006)
    assert np.mean(np.concatenate(factors) < np.log(1.5)) > 0.8


# Which columns are settings


def sweep(*changes, kind=TrialSpec):
    """A sweep's own table, one row per change of optimizer fields (with `seed` beside them)."""
    rows = []
    for number, change in enumerate(changes):
        spec = small_trial(seed=change.get("seed", 0))
        optimizer = {key: value for key, value in change.items() if key != "seed"}
        spec = spec.replace(optimizer=spec.optimizer.replace(**optimizer))
        row = dict.fromkeys(results.schema().names)
        row |= {name: spec.at(path) for name, (path, _) in results.spec_columns().items()}
        row |= {"trial_id": spec.trial_id, "replicate_of": spec.replicate_of, "status": "completed"}
        row |= {"tokens": spec.tokens, "params_active_non_embedding": 1000, "validation_loss": 2.0 + 0.01 * number}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=results.schema(kind))


EIGHT = [
    {"weight_decay": 1.0}, {"lr": 0.01}, {"beta1": 0.8}, {"beta2": 0.95},
    {"eps": 1e-7}, {"clip": 0.5}, {"warmup_fraction": 0.2}, {"final_lr_fraction": 0.0},
]  # fmt: skip


def test_eight_trials_that_differ_in_one_setting_each_are_eight_rows_with_eight_settings():
    runs = read_table(sweep(*EIGHT))
    assert len(runs) == 8
    assert not runs.excluded
    assert set(runs.settings) == {name for change in EIGHT for name in change}


def test_with_two_seeds_they_are_eight_replicated_points():
    runs = read_table(sweep(*EIGHT, *({**change, "seed": 1} for change in EIGHT)))
    assert len(runs) == 16
    assert sorted(np.bincount(runs.group)) == [2] * 8
    assert "seed" not in runs.settings


def test_a_trial_listed_twice_is_a_duplicate():
    runs = read_table(pa.concat_tables([sweep(*EIGHT), sweep(*EIGHT).slice(3, 1)]))
    assert [row.reason.startswith("duplicate of") for row in runs.excluded] == [True]


def test_a_field_that_is_added_to_the_spec_is_a_setting_with_no_second_edit():
    table = sweep({"weight_decay": 1.0}, {"weight_decay": 2.0}, {"weight_decay": 3.0})
    column = pa.field("smoothing", pa.float64(), metadata={"field": "optimizer.smoothing"})
    table = table.append_column(column, [[0.0, 0.1, 0.1]])
    assert set(read_table(table).settings) == {"weight_decay", "smoothing"}


def test_settings_that_are_words_are_said_when_they_vary():
    table = sweep({"lr": 0.01}, {"lr": 0.02})
    moments = table.schema.get_field_index("moments")
    mixed = table.set_column(moments, table.schema.field(moments), [["fp32", "bf16_stochastic"]])
    assert "the table mixes values of 'moments': their losses may not compare" in read_table(mixed).notes


def test_a_rate_that_the_ladder_gives_each_size_is_no_setting_and_is_said():
    table = laptop()
    rate = [0.01 * (1 + int(name[-1])) for name in table["model"].to_pylist()]
    runs = read_table(table.append_column("lr", [rate]))
    assert "lr" not in runs.settings
    assert any("'lr' only changes with" in note for note in runs.notes)


def test_a_setting_of_a_search_is_told_from_epochs_that_no_two_trials_share():
    """A grid at one weight decay, then a search in which every trial has its own length."""
    sizes = [1e6, 2e6, 4e6]
    table = pa.table({
        "params": [*sizes * 4, *sizes, 1e6, 2e6],
        "tokens": [4e6] * 6 + [12e6] * 6 + [5e6, 6e6, 7e6, 8e6, 9e6],
        "density": [1.0] * 3 + [0.5] * 3 + [1.0] * 3 + [0.5] * 3 + [1.0, 0.5, 1.0, 0.5, 1.0],
        "weight_decay": [2.0] * 12 + [0.5, 3.1, 1.7, 0.9, 4.0],
        "loss": [2.0 + 0.01 * n for n in range(17)],
    })  # fmt: skip
    assert set(read_table(table, {"active": "params"}).settings) == {"weight_decay"}


def foreign(**columns):
    rows = {"params": [1e6] * 4, "tokens": [4e6] * 4, "loss": [2.0, 2.1, 2.2, 2.0], **columns}
    return pa.table(rows)


def test_equal_coordinates_with_other_settings_are_variants_never_duplicates():
    runs = read_table(foreign(peak_lr=[0.1, 0.2, 0.3, 0.4], seed=[0, 0, 0, 0]))
    assert len(runs) == 4
    assert not runs.excluded
    assert list(runs.settings["peak_lr"]) == [0.1, 0.2, 0.3, 0.4]
    assert len(set(runs.group)) == 4


@pytest.mark.parametrize("name", ["config/lr", "config.peak_lr", "Weight Decay"])
def test_a_setting_of_an_export_is_one_under_its_own_name(name):
    runs = read_table(foreign(**{name: [0.1, 0.2, 0.3, 0.4]}))
    assert list(runs.settings) == [name]
    assert len(set(runs.group)) == 4


def test_a_setting_that_stands_twice_is_one():
    runs = read_table(foreign(**{"lr": [0.1, 0.2, 0.3, 0.4], "config/lr": [0.1, 0.2, 0.3, 0.4]}))
    assert list(runs.settings) == ["lr"]
    assert "'config/lr' repeats 'lr', which is the setting" in runs.notes


def test_rows_equal_in_every_column_are_duplicates():
    runs = read_table(foreign(peak_lr=[0.1, 0.2, 0.3, 0.1]))
    assert [(row.row, row.reason) for row in runs.excluded] == [("row 3", "duplicate of row 0")]


def test_an_unknown_column_that_varies_at_one_point_is_named_and_may_be_made_a_setting():
    table = foreign(momentum=[0.1, 0.2, 0.3, 0.4])
    assert any("differ in momentum" in note for note in read_table(table).notes)
    assert list(read_table(table, settings=["momentum"]).settings) == ["momentum"]
    with pytest.raises(ValueError, match=r"no column 'momntum' \(given as a setting\); did you mean 'momentum'"):
        read_table(table, settings=["momntum"])


def test_taking_rows_takes_their_settings():
    runs = MOVING.table(10)
    np.testing.assert_array_equal(runs.take([3, 1]).settings["weight_decay"], runs.settings["weight_decay"][[3, 1]])
    assert dataclasses.replace(runs).settings is runs.settings
