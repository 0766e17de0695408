"""The report of a laptop sweep: what it writes, what it says, and that odd tables get a named
answer.

Tables are simulated (`tables.laptop`), because a report must be right before any real sweep exists.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

from analysis.answer.costs import ACTIVE, Cost
from analysis.answer.fresh import fresh, log_optimum
from analysis.answer.optimum import Box
from analysis.answer.settings import answer, own_cost
from analysis.answer.simulate import simulate
from analysis.answer.study import Study, analyse
from analysis.cli import main
from analysis.data.files import dumps
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from analysis.fit.select import candidates, cross_validate
from analysis.laws import named
from analysis.show.plots.losses import planes
from analysis.show.plots.pictures import PICTURES
from analysis.show.report import write_report, write_runs_report
from analysis.show.report.summary import numbers, summary
from tests.analysis.tables import laptop


def test_a_laptop_sweep_gets_an_answer_with_caveats_and_every_file(tmp_path):
    report = write_report(laptop(epochs=(1, 3, 9)), tmp_path, title="Laptop sweep", bootstraps=20)
    names = {path.name for path in report.paths}
    assert {
        "report.html",
        "report.json",
        "law.png",
        "predicted_vs_measured.png",
        "isoflop.png",
        "loss_over_epochs.png",
        "optimal_sparsity.png",
    } <= names
    assert "train N =" in report.summary
    assert "few rows" in report.summary or "no replicates" in report.summary
    assert {path.name for path in tmp_path.iterdir()} == names, "no temporary file may be left"
    page = (tmp_path / "report.html").read_text()
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page must stand alone"
    stored = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert stored == json.loads(dumps(report.numbers))
    assert stored["answers"] == []


ODD = {
    "one density": lambda row: row["density"] == 1,
    "sparse only": lambda row: row["density"] == 0.25,
    "one unique budget": lambda row: row["unique_tokens"] == 100_000,
    "one epoch": lambda row: row["epochs"] == 1,
    "all epochs equal": lambda row: row["epochs"] == 8,
    "one size": lambda row: row["model"] == "laptop-0",
    "one row": lambda row: row["trial_id"] == "t000",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_table_is_answered_and_never_crashes(name):
    """Numbers and every picture that suits but the slow profiles; only the writing of files is left
    out.
    """
    rows = [row for row in laptop(epochs=(1, 2, 8)).to_pylist() if ODD[name](row)]
    study = analyse(read_table(pa.Table.from_pylist(rows)), bootstraps=10)
    text = summary(study, name)
    assert ("No recommendation" in text) != ("train N =" in text)
    json.loads(dumps(numbers(study, name)), parse_constant=pytest.fail)
    drawn = [picture for key, picture in PICTURES.items() if picture.suits(study) and key != "profiles"]
    assert drawn, "a table with a row has a picture"
    for picture in drawn:
        axes = picture.draw(study).axes
        assert all(axis.has_data() or not axis.axison for axis in axes), "no picture has an empty panel"
        assert picture.caption


@pytest.mark.parametrize("name", ["few rows", "seeds of one run"])
def test_a_table_that_carries_no_law_is_answered_by_the_smooth_model(name, tmp_path):
    """As what is trained from it is chosen; the report says the same run."""
    size, density = ([1e5, 2e5] * 3, [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]) if name == "few rows" else ([1e5] * 6, [1.0] * 6)
    runs = Runs.from_arrays(size, density, 5e4, 1e5, 3.0 + 0.01 * np.arange(6))
    report = write_runs_report(runs, tmp_path, title=name)
    said = answer(runs, budget=float(own_cost(runs).of(runs.points).max()), unique=5e4)
    assert report.study is not None
    assert report.study.fit is None
    assert report.summary.splitlines()[2].startswith("for 50k unique tokens and at most ")
    [told] = json.loads((tmp_path / "report.json").read_text())["answers"]
    assert told["best"]["loss"]["value"] == pytest.approx(said.best.loss.value)
    assert "No law of these rows:" in report.summary
    assert [mark.answer for mark in report.study.marks].count(True) == 1


def test_a_table_of_fresh_tokens_that_carries_no_law_is_not_answered_over_its_largest_run(tmp_path):
    """At equal compute only the smallest model sees the most tokens."""
    size = np.array([3e4, 1e5, 3e5, 1e6, 3e6])
    tokens = 1e12 / 6 / size
    runs = Runs.from_arrays(size, 1.0, tokens, tokens, [3.42, 3.22, 3.24, 3.45, 3.83])
    report = write_runs_report(runs, tmp_path, title="fresh")
    assert "No recommendation by a law:" in report.summary
    assert "train:" not in report.summary
    assert "the best measured run at density 1 is row 1: loss 3.2200" in report.summary


def test_optimum_says_what_the_report_says_where_no_law_is_carried(tmp_path, capsys):
    rows = [
        {
            "params_active_non_embedding": 1e5 * (1 + i % 2),
            "density": 1.0,
            "unique_tokens": 5e4,
            "tokens": 1e5 * (1 + i // 2),
            "validation_loss": 3.0 + 0.01 * i,
        }
        for i in range(6)
    ]
    csv.write_csv(pa.Table.from_pylist(rows), tmp_path / "t.csv")
    assert main(["optimum", str(tmp_path / "t.csv"), "--budget", "3.6e11", "--unique", "50000"]) == 0
    said = capsys.readouterr().out
    report = write_report(tmp_path / "t.csv", tmp_path / "report", title="t", budgets=[3.6e11])
    answered = report.summary.splitlines()
    assert [line for line in answered if line.startswith("  ")][:4] == [
        line for line in said.splitlines() if line.startswith("  ")
    ][:4]


def test_the_answer_comes_first_and_its_marks_are_in_the_pictures():
    study = analyse(read_table(laptop(epochs=(1, 3, 9))), law=named("sparse_small_overfit"), bootstraps=20)
    text = summary(study, "t").splitlines()
    assert text[2].startswith("With ")
    assert [mark.answer for mark in study.marks].count(True) == 2, "one for each U"
    labels = PICTURES["optimal_sparsity"].draw(study).axes[0].get_legend_handles_labels()[1]
    assert {"best measured", "run to train"} <= set(labels)


def test_contours_are_drawn_of_runs_that_fill_a_plane_and_whose_losses_differ():
    """Not of runs of one compute at one U, which lie on a line, nor of equal losses."""
    size, epochs = (grid.ravel() for grid in np.meshgrid([1e6, 2e6, 4e6], [1.0, 2.0, 4.0]))
    loss = 3.0 - 0.01 * np.arange(9)
    for passes, measured, planed in ((epochs, loss, [1.0]), (4e6 / size, loss, []), (epochs, 3.0, [])):
        runs = Runs.from_arrays(size, 1.0, 1e7, 1e7 * passes, measured)
        assert planes(Study(runs, ACTIVE, Box.of(runs), (), None, None, (), (), (), ())) == planed


def test_where_no_trial_is_as_cheap_as_the_budget_the_report_has_none_to_settle_it():
    """One short pilot over more tokens than all others: its own cost is the budget there."""
    law = named("sparse_small")
    flat = {"ln_A": 6.2, "ln_B": 7.9, "ln_E": 0.53, "alpha": 0.36, "k": 0.0, "ln_R_D": 2.0, "ln_R_N": 2.0}
    size, density, epochs = (g.ravel() for g in np.meshgrid([1e6, 3e6, 1e7], [1.0, 0.5, 0.25], [1.0, 3.0, 9.0]))
    unique = np.append(np.full(27, 1e8), 4e8)
    points = Points.at(np.append(size, 1e6), np.append(density, 1.0), unique, unique * np.append(epochs, 1.0))
    study = analyse(simulate(law, law.vector(flat), points, noise=0.01), law=law, bootstraps=10)
    assert not study.recommendations[-1].shown
    assert study.settle is None
    assert "train N =" in summary(study, "t")


@pytest.fixture(scope="module")
def harmed():
    """A study, by a law that was named, of a table whose sparse runs are clearly worse."""
    law = named("sparse_small")
    worse = {"ln_A": 6.2, "ln_B": 7.9, "ln_E": 0.53, "alpha": 0.36, "k": 1.0, "ln_R_D": 2.0, "ln_R_N": 2.0}
    size, density, epochs = (g.ravel() for g in np.meshgrid([1e6, 3e6, 1e7], [1.0, 0.5, 0.25], [1.0, 3.0, 9.0]))
    points = Points.at(size, density, 1e8, 1e8 * epochs)
    return analyse(simulate(law, law.vector(worse), points, noise=0.004), law=law, bootstraps=20)


def test_where_sparsity_is_worse_the_report_says_so_and_calls_it_no_tie(harmed):
    assert harmed.recommendations[-1].saving.high < 1
    text = summary(harmed, "t")
    assert "x more compute than dense" in text
    assert "less compute" not in text
    assert "a tie" not in text


def test_the_error_of_a_law_by_name_is_of_rows_that_it_has_not_seen(harmed):
    assert harmed.rmse == cross_validate(harmed.fit)[0]
    assert harmed.rmse > harmed.fit.rmse


def fresh_table(noise=0.003, exponent=(0.36, 0.41)):
    """Runs along nine levels of compute, each token fresh, as in isoFLOP studies."""
    law = named("chinchilla")
    theta = law.vector({"ln_A": 6.2, "ln_B": 7.9, "ln_E": 0.53, "alpha": exponent[0], "beta": exponent[1]})
    cost = np.repeat(np.geomspace(6e18, 1e22, 8), 7)
    best = np.exp((np.log(exponent[0] / exponent[1]) + 6.2 - 7.9 + exponent[1] * np.log(cost / 6)) / sum(exponent))
    size = best * np.tile(np.geomspace(0.25, 4.5, 7), 8)
    points = Points.at(size, 1.0, cost / 6 / size, cost / 6 / size)
    return simulate(law, theta, points, noise=noise)


def test_a_fresh_table_has_three_exponents_and_their_truth_and_no_epochs():
    study = analyse(fresh_table(), bootstraps=40)
    assert study.fresh is not None
    truth = 0.41 / 0.77
    for road in study.fresh.roads:
        assert road.a is not None
        assert road.a.low - 0.02 <= truth <= road.a.high + 0.02, road.name
    size = study.fresh.active[0] * study.fresh.tokens[0] * 6
    np.testing.assert_allclose(size, study.fresh.budgets, rtol=1e-9)
    text, cost = summary(study, "fresh"), Cost("flops_active", "FLOP", 1.0, size=0.75, tokens=1.1)
    assert "the best dense size grows as C^a, the tokens as C^(1 - a)" in text
    assert "the tokens as C^((1 - 0.75 a) / 1.1)" in summary(replace(study, cost=cost), "measured FLOPs")
    assert "2, parabolas" in text
    shown = {name for name, picture in PICTURES.items() if picture.suits(study)}
    assert {"compute_optimal", "loss_over_tokens", "isoflop"} <= shown
    assert not shown & {"loss_over_epochs", "isoloss", "sparsity_over_unique", "optimal_sparsity"}
    for name in ("compute_optimal", "loss_over_tokens", "isoflop"):
        assert all(axis.has_data() for axis in PICTURES[name].draw(study).axes)


def test_the_closed_form_of_the_best_size_is_the_least_loss_along_its_compute():
    study = analyse(fresh_table(), law=named("chinchilla"), bootstraps=10)
    fit = study.fit
    cost = Cost("odd", "FLOP", 1.0, size=0.9, tokens=1.1)
    budget = np.log([1e19, 1e21])
    found = log_optimum(fit, fit.theta[None], budget, cost)[0]
    for log_cost, log_size in zip(budget, found, strict=True):
        sizes = np.exp(log_size + np.linspace(-0.5, 0.5, 1001))
        tokens = np.exp(cost.log_tokens(log_cost, np.log(sizes), np.zeros(1001)))
        assert np.argmin(fit.predict(Points.at(sizes, 1.0, tokens, tokens))) == pytest.approx(500, abs=2)


def test_too_few_levels_of_compute_say_so():
    runs = fresh_table()
    tried = candidates(runs, delta=1e-2, names=("chinchilla",))
    scattered = runs.take(np.arange(0, len(runs), 3))
    found = fresh(scattered, tried, ACTIVE, draws=10)
    assert found.roads[1].a is None
    assert "levels of compute" in found.roads[1].note


def test_a_table_that_carries_no_law_says_which_law_is_nearest_and_what_it_needs(tmp_path):
    report = write_report(laptop().slice(0, 3), tmp_path, title="three rows")
    assert "different runs needed, 3 there" in report.summary
    assert "the best measured run at density 1 is t002" in report.summary


def test_a_sweep_in_which_nothing_completed_still_gets_a_report(tmp_path):
    table = laptop().slice(0, 2)
    failed = table.set_column(table.column_names.index("status"), "status", pa.array(["failed", "out_of_memory"]))
    report = write_report(failed, tmp_path, title="all failed")
    assert report.study is None
    assert "t000: status is failed; t001: status is out_of_memory" in report.summary
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}
