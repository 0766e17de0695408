"""Tables of others: every form is read, cells that are no number cost their row, units and names
are recognised or refused, and each guess is said (the cases T-* of tables that people brought).
"""

import csv
import gzip
import io
import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.cli import main
from analysis.data.cells import parse
from analysis.data.columns import parse_mapping, recognised, size_of
from analysis.data.table import NoUsableRowError, read_table
from analysis.data.units import parse_units
from analysis.verbs.common import require_numbers
from raysparse.files import Folder
from tests.conftest import REPOSITORY

NAMES = ("id", "active", "density", "unique_tokens", "tokens", "loss")
ROWS = [
    (f"r{n}", 30_000_000 * 2**n, 0.5 if n % 2 else 1.0, 130_000_000, 130_000_000 * 4**n, 4.0 - 0.1234567 * n)
    for n in range(5)
]


def written(rows=ROWS, names=NAMES, delimiter=",", change=lambda name, value: str(value)):
    file = io.StringIO(newline="")
    out = csv.writer(file, delimiter=delimiter)
    out.writerows([names, *([change(name, value) for name, value in zip(names, row, strict=True)] for row in rows)])
    return file.getvalue()


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def without(column, **added):
    """The table with a column replaced by others, made from the row."""
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    names = [*(name for name in NAMES if name != column), *added]
    return pa.Table.from_pylist([
        {name: added[name](row) if name in added else row[name] for name in names} for row in rows
    ])  # fmt: skip


def same(runs, rows=ROWS):
    """Whether the coordinates and losses are those of ROWS."""
    at = runs.points
    found = np.stack([at.active, at.density, at.unique, at.tokens, runs.loss], axis=1)
    return np.allclose(found, [row[1:] for row in rows], rtol=1e-12)


FORMS = {
    "a.csv": written(),
    "A.CSV": written(),
    "a.tsv": written(delimiter="\t"),
    "a.csv.gz": gzip.compress(written().encode()),
    "bom.csv": written().encode("utf-8-sig"),
    "utf16.csv": written().encode("utf-16"),
    "crlf.csv": written().replace("\n", "\r\n"),
    "comments.csv": "# exported\n# loss in nats\n" + written() + "# end\n",
    "spaces.csv": written(names=[f" {name} " for name in NAMES], change=lambda _, value: f" {value} "),
    "semicolon.csv": written(delimiter=";", change=lambda _, value: str(value).replace(".", ",")),
    "sheet.csv": "sep=;\r\n"
    + written(
        delimiter=";",
        change=lambda name, value: (f"{100 * value:.1f} %" if name == "density" else str(value)).replace(".", ","),
    ),
    "quoted.csv": written(change=lambda _, value: str(value).replace(".", ",")),
    "thousands.csv": written(change=lambda _, value: f"{value:,}" if isinstance(value, int) else str(value)),
    "human.csv": written(change=lambda _, value: f"{value / 1e6:g}M" if isinstance(value, int) else str(value)),
    "percent.csv": written(change=lambda name, value: f"{100 * value:g}%" if name == "density" else str(value)),
    "a.jsonl": "\n".join(json.dumps(dict(zip(NAMES, row, strict=True))) for row in ROWS),
    "nested.jsonl": "\n".join(json.dumps({"config": dict(zip(NAMES, row, strict=True))}) for row in ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_table(tmp_path, form):
    """T-csv."""
    runs = read_table(put(tmp_path / form, FORMS[form]))
    assert same(runs)
    assert not runs.excluded


def test_parquet_run_folders_and_uris(tmp_path, monkeypatch):
    table = pa.table({name: [row[n] for row in ROWS] for n, name in enumerate(NAMES)})
    (tmp_path / "run").mkdir()
    pq.write_table(table, tmp_path / "run" / "results.parquet")
    assert same(read_table(tmp_path / "run"))
    assert same(read_table(str(tmp_path / "run" / "results.parquet")))
    store = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    monkeypatch.setattr(
        Folder, "_resolve", staticmethod(lambda uri: (store, uri.removeprefix("s3://bucket").strip("/")))
    )
    for uri in ("s3://bucket/run", "s3://bucket/run/", "s3://bucket/run/results.parquet"):
        assert same(read_table(uri))
    with pytest.raises(ValueError, match="no table at s3://bucket/none"):
        read_table("s3://bucket/none")
    with pytest.raises(ValueError, match=r"is a folder without results\.parquet; give a run folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("cell", ["OOM", "diverged", "see notes", "7x"])
def test_a_cell_that_is_no_number_costs_its_row_by_number_and_name(tmp_path, cell):
    rows = [row if n != 2 else (*row[:-1], cell) for n, row in enumerate(ROWS)]
    runs = read_table(put(tmp_path / "a.csv", written(rows)))
    assert [(row.row, row.reason) for row in runs.excluded] == [("r2", f"loss is {cell!r}, no number")]
    assert same(runs, [row for n, row in enumerate(ROWS) if n != 2])


@pytest.mark.parametrize("cell", ["", "nan", "N/A", "-", "inf", "null"])
def test_a_cell_without_a_value_is_not_finite(tmp_path, cell):
    rows = [row if n != 2 else (*row[:-1], cell) for n, row in enumerate(ROWS)]
    runs = read_table(put(tmp_path / "a.csv", written(rows)))
    assert [(row.row, row.reason) for row in runs.excluded] == [("r2", "loss is not finite")]


def test_whole_numbers_above_2_to_the_53_are_read(tmp_path):
    names, big = (*NAMES, "flops_active"), [(*row, 6 * row[1] * row[4] // 16 + 1) for row in ROWS]
    pq.write_table(pa.table({name: [row[n] for row in big] for n, name in enumerate(names)}), tmp_path / "a.parquet")
    for path in (put(tmp_path / "a.csv", written(big, names)), tmp_path / "a.parquet"):
        assert read_table(path).extras["flops_active"] == pytest.approx([row[-1] for row in big])


def test_a_column_that_stands_twice_is_said(tmp_path):
    names, rows = (*NAMES, "loss"), [(*row, 1.0) for row in ROWS]
    runs = read_table(put(tmp_path / "a.csv", written(rows, names)))
    assert same(runs)
    assert "column 'loss' stands twice with other values, which 'loss (2)' names; the first is used" in runs.notes
    assert not read_table(put(tmp_path / "b.csv", written([(*row, row[-1]) for row in ROWS], names))).notes


def test_epochs_that_are_not_those_of_the_tokens_are_said(tmp_path):
    """Where `tokens` means those of one epoch, every row would pass for a run of one."""
    names = (*NAMES, "epochs")
    runs = read_table(put(tmp_path / "a.csv", written([(*row, 2 * row[4] / row[3]) for row in ROWS], names)))
    assert same(runs)
    [said] = runs.notes
    assert said.startswith("column 'epochs' is not used: in 5 of 5 rows it is not tokens / unique tokens (2 where")
    rounded = [(*row, round(0.8 * row[4] / row[3])) for row in ROWS]
    assert not read_table(put(tmp_path / "b.csv", written(rounded, names))).notes
    assert same(read_table(put(tmp_path / "c.csv", written([(*row, "a few") for row in ROWS], names))))


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=20), st.sampled_from(["{}", "{:,}", "{:.6e}", " {} "]))
def test_cells_are_read_as_they_were_written(numbers, form):
    found = parse([form.format(number) for number in numbers])
    assert found.values == pytest.approx(numbers, rel=1e-6)
    assert not found.wrong


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=20))
def test_decimal_commas_are_told_from_thousands(numbers):
    """Unless every cell could be either."""
    cells = [f"{number:.4f}".replace(".", ",") for number in numbers]
    assert parse(cells).values == pytest.approx([round(number, 4) for number in numbers])


@pytest.mark.parametrize(
    ("cells", "between", "numbers"),
    [
        (["0,125", "0,250"], ",", [0.125, 0.25]),
        (["0,125", "1,000"], ",", [0.125, 1.0]),
        (["3,125", "2,750"], ",", [3125, 2750]),
        (["3,125", "2,750"], ";", [3.125, 2.75]),
        (["12,500 %", ""], ";", [0.125, math.nan]),
        (["37,500,000", "900,000"], ";", [37_500_000, 900_000]),
    ],
)
def test_a_comma_before_three_digits_is_decimal_after_0_and_between_semicolons(cells, between, numbers):
    assert parse(cells, between == ";").values == pytest.approx(numbers, nan_ok=True)


def test_decimal_commas_of_three_digits_are_read_from_a_file_of_semicolons(tmp_path):
    rows = [(*row[:2], 0.125, *row[3:5], 3.125 + n) for n, row in enumerate(ROWS)]
    text = written(rows, delimiter=";", change=lambda _, value: str(value).replace(".", ","))
    assert same(read_table(put(tmp_path / "a.csv", text)), rows)


def test_a_row_with_more_cells_than_names_is_refused_and_named(tmp_path):
    path = put(tmp_path / "a.csv", "run,N,D,loss\na,1000000,20000000,3,21\n")
    with pytest.raises(ValueError, match=r"row 1 of the table \('a', ...\) has 5 cells, but 4 columns have names"):
        read_table(path)
    assert same(read_table(put(tmp_path / "b.csv", written().replace("\r\n", ",\r\n")))), "a mark at the end is none"


class TestStatus:
    """T-state."""

    @pytest.mark.parametrize("column", ["State", "state", "status", "run_state"])
    def test_words_of_other_tools_are_known_and_others_are_named(self, column):
        states = ["finished", "crashed", "Finished", "running", "completed"]
        table = without("").append_column(column, pa.array(states))
        runs = read_table(table)
        assert list(runs.ids) == ["r0", "r2", "r4"]
        assert [row.reason for row in runs.excluded] == ["status is crashed", "status is running"]

    def test_of_a_history_only_the_last_step_of_a_run_counts(self):
        table = pa.concat_tables([without("").append_column("_step", pa.array([step] * 5)) for step in (10, 20)])
        runs = read_table(table)
        assert len(runs) == 5
        assert [row.reason for row in runs.excluded] == ["an earlier step of the run, 10 of 20"] * 5


class TestUnits:
    """T-cols, T-llama3."""

    def test_sparsity_is_one_minus_density(self):
        for scale in (1, 100):
            runs = read_table(without("density", sparsity=lambda row, scale=scale: scale * (1 - row["density"])))
            assert same(runs)
            assert "density is 1 - 'sparsity'" in runs.notes

    def test_all_parameters_times_density_are_the_active_ones(self):
        table = without("active", total_params=lambda row: row["active"] / row["density"])
        assert same(read_table(table))
        table = without("active", params=lambda row: row["active"] / row["density"])
        with pytest.raises(ValueError, match="may be all weights or the active ones; say which"):
            read_table(table)
        assert same(read_table(table, {"total": "params"}))

    def test_compute_and_tokens_give_the_weights(self):
        runs = read_table(without("active", C=lambda row: 6.0 * row["active"] * row["tokens"]))
        assert same(runs)
        assert "active weights are 'C' / (6 'tokens')" in runs.notes

    def test_millions_and_billions_are_converted_when_said_and_refused_when_not(self):
        small = without("active", active=lambda row: row["active"] / 1e6)
        with pytest.raises(ValueError, match=r"'active' has 30 to 480 weights, too few to be true; .*--units active=M"):
            read_table(small)
        assert same(read_table(small, units={"active": "M"}))
        assert same(read_table(without("tokens", tokens=lambda row: row["tokens"] / 1e9), units={"tokens": "B"}))

    @pytest.mark.parametrize(("role", "scale"), [("total", 1e6), ("compute", 1e9)])
    def test_sizes_that_weights_are_told_from_are_converted_when_said_and_refused_when_not(self, role, scale):
        """In millions, and in GFLOP."""
        whole = {
            "total": lambda row: row["active"] / row["density"],
            "compute": lambda row: 6 * row["active"] * row["tokens"],
        }
        table = without(
            "active", **{"compute" if role == "compute" else "total_params": lambda row: whole[role](row) / scale}
        )
        with pytest.raises(ValueError, match=rf"gives .* weights, too few to be true; say its unit, .*--units {role}="):
            read_table(table)
        assert same(read_table(table, units={role: "M" if role == "total" else "G"}))

    def test_a_size_in_a_columns_name_is_read_and_said(self):
        table = without("active", active_params_M=lambda row: row["active"] / 1e6)
        runs = read_table(table)
        assert same(runs)
        assert "column 'active_params_M' is read in M (1e+06)" in runs.notes

    def test_a_cells_own_size_goes_before_that_of_its_columns_name(self):
        cells = ["30M", "60", "0.12B", "240", "480M"]
        table = without("active", active_params_M=lambda row: cells[int(row["id"][1:])])
        assert same(read_table(table))
        assert same(read_table(without("active", N=lambda row: cells[int(row["id"][1:])]),
                               {"active": "N"}, units={"active": "M"}))  # fmt: skip

    def test_perplexity_and_bits_are_converted_and_refused_when_not_said(self):
        perplexity, bits = (lambda row: math.exp(row["loss"])), (lambda row: row["loss"] / math.log(2))
        with pytest.raises(ValueError, match=r"too large for nats per token; .*--units loss=perplexity"):
            read_table(without("loss", loss=perplexity))
        assert same(read_table(without("loss", loss=perplexity), units={"loss": "ppl"}))
        assert same(read_table(without("loss", ppl=perplexity)))
        assert same(read_table(without("loss", loss=bits), units={"loss": "bits"}))
        assert same(read_table(without("loss", bits_per_token=bits)))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("active", "not of the form role=unit"),
            ("losses=bits", "not of 'losses'"),
            ("loss=M", "unit 'M' of 'loss' is unknown"),
            ("active=X", "unit 'X' of 'active' is unknown; expected one of k, K, M"),
        ],
    )
    def test_other_units_are_refused(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_units(text)


@pytest.mark.parametrize(
    ("role", "column"),
    [
        ("active", "N"), ("tokens", "D"), ("compute", "C"), ("active", "n_params"), ("tokens", "train_tokens"),
        ("loss", "val_loss"), ("loss", "eval/loss"), ("loss", "Val Loss"), ("active", "config/n_params"),
        ("loss", "summary.val_loss"), ("unique", "Unique Tokens"), ("tokens", "tokens (B)"), ("density", "DENSITY"),
    ],
)  # fmt: skip
def test_names_of_others_are_recognised(role, column):
    assert recognised(role, ["other", column]) == column


def test_names_that_mean_something_else_are_not():
    assert not recognised("loss", ["train/loss", "loss_law_published", "l"])
    assert not recognised("tokens", ["d", "D/N"])
    assert [size_of(name) for name in ("tokens_B", "params (M)", "D", "TB", "model")] == ["B", "M", "", "", ""]


def test_each_guess_is_said(tmp_path, capsys):
    path = put(tmp_path / "a.csv", "Name,State,config/n_params,D,eval/loss\n" + "".join(
        f"r{n},finished,{30e6 * 2**n:.0f},{1e9 * 3**n:.0f},{4 - 0.1 * n}\n" for n in range(12)
    ))  # fmt: skip
    taken = "loss is 'eval/loss', active is 'config/n_params', tokens is 'D', id is 'Name', status is 'State'"
    assert read_table(path).notes[-1] == f"columns taken: {taken}"
    assert main(["fit", str(path), "--law", "chinchilla_tied", "--bootstraps", "2"]) == 0
    assert f"note: columns taken: {taken}" in capsys.readouterr().out


def test_a_pandas_table_is_read(tmp_path):
    """An index column, nullable numbers and categories, as pandas writes them."""
    whole = {"tokens": pa.int64(), "__index_level_0__": pa.int64()}
    schema = pa.schema({"active": pa.float64(), "loss": pa.float64(), **whole})
    rows = [{"active": 3e7, "tokens": 10**9, "loss": None if n == 1 else 3.0, "__index_level_0__": n} for n in range(3)]
    table = pa.Table.from_pylist(rows, schema=schema)
    for name, words in (("kind", ["a", None, "b"]), ("State", ["finished"] * 3)):
        table = table.append_column(name, pa.array(words).dictionary_encode())
    pq.write_table(table, tmp_path / "a.parquet")
    assert [row.reason for row in read_table(tmp_path / "a.parquet").excluded] == ["loss is not finite"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xlsx", b"PK", "cannot read 'a.xlsx': expected"),
        ("a.parquet", b"no", "cannot read 'a.parquet'"),
        ("a.csv.gz", b"no", "cannot read 'a.csv.gz': it is damaged"),
        ("a.csv", b"", "the table is empty"),
        ("a.jsonl", b"[1]\n", "line 1 of the table is no JSON object"),
        ("a.csv", b"\xff\xfe\x00", "cannot read 'a.csv'"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_table(put(tmp_path / name, text))


def test_a_header_alone_has_no_row(tmp_path):
    with pytest.raises(NoUsableRowError, match="no usable row among 0"):
        read_table(put(tmp_path / "a.csv", ",".join(NAMES) + "\n"))


@pytest.mark.parametrize("argument", ["--units=active", "--where=dataset", "--columns=loss", "--budgets=1e18,x"])
def test_an_argument_that_cannot_be_understood_says_what_was_expected(tmp_path, capsys, argument):
    with pytest.raises(SystemExit):
        main(["report", str(put(tmp_path / "a.csv", written())), argument])
    said = capsys.readouterr().err
    assert "for example" in said or "expected one such as" in said


def test_a_mapped_name_is_not_a_guess():
    runs = read_table(without("active", size=lambda row: row["active"]), parse_mapping("active=size"))
    assert same(runs)
    assert not runs.notes


def test_sizes_may_be_said_as_people_do(capsys):
    """A-os."""
    plan = ["simulate", "--sizes", "30M,1e8", "--densities", "1,50%", "--unique", "1B", "--epochs", "1,4"]
    assert main(plan) == 0
    assert "8" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["-1", "0", "nan", "lots"])
def test_a_budget_that_is_none_is_refused(tmp_path, capsys, budget):
    with pytest.raises(SystemExit):
        main(["optimum", str(put(tmp_path / "a.csv", written())), f"--budget={budget}"])
    assert "expected" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    plan = ["simulate", "--sizes", "3e7", "--densities", "1", "--unique", "1e9", "--epochs", "1,2"]
    put(tmp_path / "file", "in the way")
    assert main([*plan, "--output", str(tmp_path / "file" / "t.csv")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("target", ["closed", "full"])
def test_a_closed_or_full_standard_output_is_no_traceback(target):
    command = f"{sys.executable} -m analysis simulate --sizes 3e7 --densities 1 --unique 1e9 --epochs 1"
    command += " | true" if target == "closed" else " > /dev/full"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert "Traceback" not in ended.stderr


def test_nan_is_no_answer():
    with pytest.raises(ValueError, match=r"the optimum has no answer: its density is nan; .*--units"):
        require_numbers("the optimum", active=1.0, density=math.nan)
