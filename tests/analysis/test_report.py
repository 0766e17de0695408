"""The report of a laptop sweep: what it writes, what it says, and that odd tables get a named
answer.

Tables are simulated (`tables.laptop`), because a report must be right before any real sweep exists.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from analysis.answer.study import analyse
from analysis.data.files import dumps
from analysis.data.table import read_table
from analysis.show.plots.pictures import PICTURES
from analysis.show.report import write_report
from analysis.show.report.summary import numbers, summary
from tests.analysis.tables import laptop


def test_a_laptop_sweep_gets_an_answer_with_caveats_and_every_file(tmp_path):
    report = write_report(laptop(), tmp_path, title="Laptop sweep", bootstraps=40)
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
    json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)


ODD = {
    "one density": lambda row: row["density"] == 1,
    "sparse only": lambda row: row["density"] == 0.25,
    "one unique budget": lambda row: row["unique_tokens"] == 100_000,
    "one epoch": lambda row: row["epochs"] == 1,
    "all epochs equal": lambda row: row["epochs"] == 4,
    "one size": lambda row: row["model"] == "laptop-0",
    "one row": lambda row: row["trial_id"] == "t000",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_table_is_answered_and_never_crashes(name):
    """Numbers and every picture but the slow profiles; only the writing of files is left out."""
    rows = [row for row in laptop().to_pylist() if ODD[name](row)]
    study = analyse(read_table(pa.Table.from_pylist(rows)), bootstraps=20)
    text = summary(study, name)
    assert ("No recommendation" in text) != ("train N =" in text)
    json.loads(dumps(numbers(study, name)), parse_constant=pytest.fail)
    for picture, (draw, caption) in PICTURES.items():
        if picture != "profiles":
            assert draw(study).axes
            assert caption


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
