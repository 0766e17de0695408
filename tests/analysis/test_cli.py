"""The command line and the package's doors: verbs work as text and as JSON, mistakes come back as
one line.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.cli import main
from analysis.show.report import Report
from tests.analysis.tables import laptop


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep") / "results.parquet"
    pq.write_table(laptop(), path)
    return str(path)


PLAN = ("simulate", "--sizes", "3e7,1e8,3e8", "--densities", "1,.5,.25,.125", "--unique", "5e8", "--epochs", "1,4,16")


def said(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_fit_prints_parameters_with_intervals_and_json(table, capsys):
    text = said(capsys, "fit", table, "--law", "sparse_small", "--bootstraps", "30")
    assert "alpha" in text
    assert "exponent of effective parameters" in text
    value = json.loads(said(capsys, "fit", table, "--law", "sparse_small", "--bootstraps", "30", "--profile", "--json"))
    assert set(value["parameters"]) == {"A", "B", "E", "alpha", "k", "R_D", "R_N"}
    low, high = value["bootstrap_95"]["alpha"]
    assert low < value["parameters"]["alpha"] < high
    assert "alpha" in value["profile_95_stored"]


def test_an_open_profile_is_printed_open(capsys, tmp_path):
    """Losses without a floor do not say that E is above 0."""
    lines, noise = ["active,density,unique_tokens,tokens,loss"], np.random.default_rng(2)
    for n in (3e6, 6e6, 1e7, 2e7, 3e7, 6e7, 1e8):
        for d in (1e7, 3e7, 1e8, 3e8):
            loss = (0.05 + 400 / n**0.33 + 900 / d**0.33) * np.exp(0.02 * noise.standard_normal())
            lines.append(f"{n},1,{d},{d},{loss}")
    path = tmp_path / "floor.csv"
    path.write_text("\n".join(lines))
    text = said(capsys, "fit", str(path), "--law", "chinchilla", "--bootstraps", "5", "--profile").splitlines()
    row = next(i for i, line in enumerate(text) if line.split()[0] == "E")
    assert "[open, " in text[row + 1]


def test_compare_tabulates_held_out_errors(table, capsys):
    text = said(capsys, "compare", table, "--laws", "sparse_small,sparse_small_untied", "--bootstraps", "20")
    assert "held out by" in text
    assert "misses held-out runs by" in text


def test_optimum_and_design_answer_for_a_budget(table, capsys):
    question = ("--law", "sparse_small", "--budget", "2e12", "--unique", "4e5", "--bootstraps", "40")
    assert "density" in said(capsys, "optimum", table, *question)
    sparse = said(capsys, "optimum", table, *question, "--density", "0.25")
    assert "dense_loss   unknown: no dense run fits the box and the budget" in sparse
    assert "nan" not in sparse
    value = json.loads(said(capsys, "optimum", table, *question, "--cost", "executed", "--density", "0.2:1", "--json"))
    assert value["box"]["density"] == [0.2, 1.0]
    tokens = ("--tokens", "4e5:1.6e6")
    value = json.loads(said(capsys, "design", table, *question, *tokens, "--trials", "3", "--json"))
    assert len(value["trials"]) <= 3
    assert all(4e5 <= trial["tokens"] <= 1.6e6 for trial in value["trials"])
    assert {"active", "density", "unique_tokens", "epochs", "tokens"} <= set(value["trials"][0])


def test_a_design_for_a_region_reads_points_without_losses(table, capsys, tmp_path):
    region = tmp_path / "region.csv"
    region.write_text("active,density,unique_tokens,tokens\n8e5,0.5,4e5,6e6\n9e5,1,4e5,6e6\n")
    question = ("--law", "sparse_small", "--budget", "2e12", "--unique", "4e5", "--bootstraps", "40", "--trials", "3")
    value = json.loads(said(capsys, "design", table, *question, "--target", str(region), "--json"))
    assert value["target"] == "region"
    assert value["trials"][-1]["expected_sd_after"] < value["sd_before"]
    assert "ln of dense over sparse loss" in said(capsys, "design", table, *question, "--aim", "saving")


def test_a_design_calls_a_logarithm_what_is_one(table, capsys):
    question = ("--law", "sparse_small_untied", "--budget", "2e12", "--unique", "4e5", "--trials", "1")
    text = said(capsys, "design", table, *question, "--bootstraps", "40", "--aim", "exponent")
    assert "pins down a of N_opt ~ C^a" in text
    assert "sd of its logarithm now" in text


def test_every_verb_that_answers_warns(table, capsys):
    question = ("--law", "sparse_small", "--budget", "2e12", "--unique", "4e5", "--bootstraps", "10")
    for verb in ("optimum", "design"):
        value = json.loads(said(capsys, verb, table, *question, "--json"))
        assert any("no replicates" in warning for warning in value["warnings"])
    away = said(capsys, "optimum", table, *question, "--active", "5e6:1e8", "--tokens", "1e4:1e9", "--epochs", "0.1:9")
    assert "the nearest run" in away


@pytest.mark.parametrize("verb", ["fit", "compare", "optimum", "design"])
def test_rows_that_are_left_out_are_in_the_json_of_every_verb(verb, capsys, tmp_path):
    records = laptop().to_pylist()
    records[3]["validation_loss"] = None
    pq.write_table(pa.Table.from_pylist([*records, {**records[0], "trial_id": "again"}]), tmp_path / "t.parquet")
    asked = ("--laws", "sparse_small") if verb == "compare" else ("--law", "sparse_small")
    asked += ("--budget", "2e12", "--unique", "4e5") if verb in ("optimum", "design") else ()
    value = json.loads(said(capsys, verb, str(tmp_path / "t.parquet"), *asked, "--bootstraps", "5", "--json"))
    assert value["excluded"] == [
        {"row": "t003", "reason": "loss is not finite"},
        {"row": "again", "reason": "duplicate of t000"},
    ]
    assert isinstance(value["notes"], list)


def test_without_a_named_law_the_average_answers(table, capsys):
    text = said(capsys, "optimum", table, "--budget", "2e12", "--unique", "4e5", "--bootstraps", "20")
    assert "; by sparse_" in text
    assert "measured: t0" in text


def test_any_unique_tokens_is_a_question_too(table, capsys):
    asked = ("optimum", table, "--law", "sparse_small", "--budget", "2e12", "--bootstraps", "20", "--json")
    value = json.loads(said(capsys, *asked))
    assert value["unique"] is None
    assert value["epochs"]["value"] == 1.0
    assert not any("epochs" in flag for flag in value["flags"]), "epochs are not searched"
    assert json.loads(said(capsys, *asked, "--unique", "400k"))["unique"] == 4e5


def test_report_writes_its_files(table, capsys, tmp_path):
    law = ("--law", "sparse_small_overfit_linear")
    text = said(capsys, "report", table, *law, "--bootstraps", "20", "--output", str(tmp_path))
    assert "chosen by the caller" in text
    assert (tmp_path / "report.html").exists()


def test_a_report_prints_as_json_what_it_wrote(table, capsys, monkeypatch):
    written = Report("text", (), None, {"title": "t", "answers": [{"budget": 1.0}]})
    monkeypatch.setattr("analysis.verbs.answers.write_runs_report", lambda *_, **__: written)
    assert json.loads(said(capsys, "report", table, "--json")) == written.numbers


def test_pairs_may_be_given_one_by_one_but_a_name_only_once(table, capsys):
    one_by_one = ("--where", "density=1.0", "--where", "model=laptop-1", "--fix", "alpha=0.3", "--fix", "ln_E=0.1")
    value = json.loads(
        said(capsys, "fit", table, *one_by_one, "--law", "data_constrained", "--bootstraps", "2", "--json")
    )
    assert value["rows"] == 8
    assert value["parameters"]["alpha"] == pytest.approx(0.3)
    assert value["parameters"]["E"] == pytest.approx(np.exp(0.1))
    with pytest.raises(SystemExit):
        main(["fit", table, "--where", "density=1.0", "--where", "density=0.5"])
    assert "--where gives density twice, '1.0' and '0.5'; give it once" in capsys.readouterr().err


def test_simulate_writes_a_table_and_tells_the_power(capsys, tmp_path):
    text = said(capsys, *PLAN, "--output", str(tmp_path / "t.csv"), "--budget", "1e19", "--tables", "2")
    assert "36 points, 1 each" in text
    assert "holds the truth in" in text
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 37


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "nowhere.parquet"), "error: no table at nowhere.parquet"),
        (("fit", "TABLE", "--law", "sparse_smal"), "did you mean 'sparse_small'"),
        (("fit", "TABLE", "--columns", "loss=validation_los"), "did you mean 'validation_loss'"),
        (("optimum", "TABLE", "--budget", "1e12", "--epochs", "1:4"), "--epochs limits nothing where any number"),
        (
            ("optimum", "TABLE", "--budget", "1e3", "--unique", "4e5", "--law", "sparse_small", "--bootstraps", "5"),
            "error: budget 1e+03 FLOP: the budget fits no run inside the box, whose runs cost ",
        ),
        ((*PLAN, "--budget", "1e9"), "error: budget 1e+09 FLOP: the budget fits no run inside the box"),
        ((*PLAN, "--budget", "1e19", "--tables", "0"), "error: tables is 0; the power needs at least one"),
        (
            ("simulate", "--law", "chinchilla", "--sizes", "1", "--densities", "1", "--unique", "1", "--epochs", "1"),
            "give --parameters for law 'chinchilla'",
        ),
    ],
)
def test_mistakes_come_back_as_one_line(arguments, message, table, capsys):
    assert main([table if argument == "TABLE" else argument for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not captured.out


@pytest.mark.parametrize(
    ("verb", "option", "value", "message"),
    [
        *(("optimum", "--unique", value, f"'{value}' is not above 0") for value in ("0", "-5")),
        *(("optimum", "--unique", value, f"'{value}' is no number") for value in ("lots", "nan", "inf")),
        *(("fit", "--delta", value, f"'{value}' is not above 0") for value in ("0", "-1")),
        *(
            ("optimum", "--bootstraps", value, f"'{value}' is not a whole number from 2 on")
            for value in ("0", "1", "9.5")
        ),
        ("fit", "--seed", "-1", "'-1' is not a whole number from 0 on"),
        ("fit", "--fix", "ln_E", "'ln_E' is not of the form NAME=VALUE"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_option(verb, option, value, message, table, capsys):
    with pytest.raises(SystemExit):
        main([verb, table, *(("--budget", "1e12") if verb == "optimum" else ()), f"{option}={value}"])
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_a_budget_far_beyond_the_data_is_warned_about(table, capsys):
    text = said(
        capsys,
        "optimum",
        table,
        "--law",
        "sparse_small",
        "--budget",
        "1e15",
        "--unique",
        "4e5",
        "--active",
        "1e4:1e12",
        "--bootstraps",
        "20",
    )
    assert "x the largest run in the table" in text


def test_importing_analysis_reaches_neither_torch_nor_ray_nor_scipy_nor_matplotlib():
    code = (
        "import analysis, sys; from analysis.show.report import write_report; "
        "heavy = {'torch', 'ray', 'scipy', 'matplotlib', 'pandas', 'pyarrow'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).returncode == 0
