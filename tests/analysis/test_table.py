"""Reading tables: every row is used or named with its reason, and a wrong name gets the right one
suggested.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.data.columns import parse_mapping
from analysis.data.points import Points
from analysis.data.table import Runs, read_table
from tests.analysis.tables import laptop


def rows(**changes):
    """One good row, changed."""
    good = {
        "trial_id": "a",
        "params_active_non_embedding": 1e6,
        "params_active": 2e6,
        "density": 0.5,
        "unique_tokens": 1000,
        "tokens": 4000,
        "validation_loss": 2.0,
        "status": "completed",
        "seed": 0,
        "method": "smet",
        "lr": 0.5,
    }
    return {**good, **changes}


def read(*records, **options):
    return read_table(pa.Table.from_pylist(list(records)), **options)


def test_a_sweeps_results_need_no_mapping(tmp_path):
    pq.write_table(laptop(), tmp_path / "results.parquet")
    runs = read_table(tmp_path / "results.parquet")
    assert len(runs) == 72
    assert runs.count == "active_non_embedding"
    assert not runs.excluded
    assert set(runs.extras) == {"flops_active", "flops_executed", "seconds"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "pruned"}, "status is pruned"),
        ({"status": "diverged", "validation_loss": float("nan")}, "status is diverged"),
        ({"status": "preempted"}, "status is preempted"),
        ({"validation_loss": float("nan")}, "loss is not finite"),
        ({"validation_loss": float("inf")}, "loss is not finite"),
        ({"validation_loss": None}, "loss is not finite"),
        ({"tokens": -4}, "tokens is not positive"),
        ({"unique_tokens": 0}, "unique is not positive"),
        ({"density": 1.5}, "density is above 1"),
        ({"density": 0.0}, "density is not positive"),
    ],
)
def test_a_row_that_cannot_enter_a_fit_is_named_with_its_reason(change, reason):
    runs = read(rows(), rows(trial_id="bad", tokens=8000) | change)
    assert [(row.row, row.reason) for row in runs.excluded] == [("bad", reason)]
    assert len(runs) == 1


def test_same_spec_and_seed_is_a_duplicate_and_another_seed_is_a_replicate():
    runs = read(
        rows(),
        rows(trial_id="again"),
        rows(trial_id="seed 1", seed=1, validation_loss=2.1),
        rows(trial_id="other rate", lr=1.0),
        rows(trial_id="other tokens", tokens=8000),
    )
    assert [(row.row, row.reason) for row in runs.excluded] == [("again", "duplicate of a")]
    assert runs.group[0] == runs.group[1], "replicates share a group"
    assert len(set(runs.group)) == 3


def test_without_a_seed_column_the_loss_tells_a_replicate_from_a_duplicate():
    one, two, three = rows(), rows(trial_id="b"), rows(trial_id="c", validation_loss=2.1)
    for record in (one, two, three):
        del record["seed"]
    runs = read(one, two, three)
    assert [row.row for row in runs.excluded] == ["b"]
    assert runs.group[0] == runs.group[1]


def test_sparse_methods_are_not_mixed_in_silence():
    records = [
        rows(trial_id="d", density=1.0, method="dense"),
        rows(trial_id="s1"),
        rows(trial_id="s2", tokens=8000),
        rows(trial_id="r", method="rigl", tokens=8000),
    ]
    runs = read(*records)
    assert [(row.row, row.reason) for row in runs.excluded] == [("r", "method is rigl, not smet")]
    assert "mixes sparse methods" in runs.notes[0]
    assert [row.row for row in read(*records, method="rigl").excluded] == ["s1", "s2"]
    with pytest.raises(ValueError, match="no usable row has method 'sett'"):
        read(*records, method="sett")
    assert [row.row for row in read(*records, method="dense").excluded] == ["s1", "s2", "r"]


def test_a_count_that_is_not_used_is_said():
    foreign = {"active": 1e6, "density": 1.0, "tokens": 4e6, "loss": 2.0}
    told = read(foreign, count="published").notes
    lacking = "params_sparse_total, params_norm, params_head"
    assert f"the count 'published' is not used: the table lacks {lacking}" in told
    mapped = read(rows(), columns={"active": "params_active_non_embedding"}, count="active").notes
    assert "the count 'active' is not used: the columns that were mapped say what N is" in mapped
    assert "not used" not in str([*read(foreign).notes, *read(rows(), count="active").notes])


@pytest.mark.parametrize("name", ["", None, "none", "Dense", "dense"])
def test_density_says_which_rows_are_dense_whatever_their_method_is_called(name):
    dense = [rows(trial_id=f"d{i}", density=1.0, method=name, tokens=4000 * i) for i in range(1, 4)]
    sparse = [rows(trial_id=f"s{i}", method="rigl", tokens=4000 * i) for i in range(1, 3)]
    runs = read(*dense, *sparse)
    assert (len(runs), runs.excluded) == (5, ())
    assert not any("method" in note for note in runs.notes)
    assert len(read(*dense, *sparse, rows(trial_id="one"), method="rigl")) == 5


def test_dense_rows_of_several_methods_are_kept_and_said():
    runs = read(rows(density=1.0, method="adam"), rows(trial_id="b", density=1.0, method="muon", tokens=8000))
    assert (len(runs), runs.excluded) == (2, ())
    assert "the dense rows mix methods (adam, muon): their losses may not compare" in runs.notes


def test_a_method_that_no_column_can_tell_is_refused():
    record = rows()
    del record["method"]
    with pytest.raises(ValueError, match="no column says the method, so 'rigl' cannot be kept; map one: --columns"):
        read(record, method="rigl")


def test_the_parameter_count_is_a_choice_that_the_runs_remember():
    assert read(rows()).points.active[0] == 1e6
    assert read(rows(), count="active").points.active[0] == 2e6
    with pytest.raises(ValueError, match="unknown parameter count 'activ'; did you mean 'active'"):
        read(rows(), count="activ")


def test_the_published_count_multiplies_the_dense_head_by_density_too():
    record = rows(params_sparse_total=10, params_norm=2, params_head=4)
    assert read(record, count="published").points.active[0] == 8.0


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"loss": "validation_los"}, "no column 'validation_los' .*did you mean 'validation_loss'"),
        ({"tokns": "tokens"}, "unknown role 'tokns'.*did you mean 'tokens'"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(mapping, message):
    with pytest.raises(ValueError, match=message):
        read(rows(), columns=mapping)


def test_a_missing_required_column_says_what_was_looked_for():
    record = rows()
    record["valid_loss"] = record.pop("validation_loss")
    with pytest.raises(ValueError, match=r"no column for 'loss' .*did you mean 'valid_loss'.*--columns loss="):
        read(record)


def test_a_text_column_is_refused_by_name():
    with pytest.raises(ValueError, match="column 'method' is not numeric"):
        read(rows(), columns={"loss": "method"})


def test_assumptions_are_noted(tmp_path):
    (tmp_path / "t.csv").write_text("params,D,y,passes\n1e6,4000,2.0,4\n")
    runs = read_table(tmp_path / "t.csv", parse_mapping("active=params,tokens=D,loss=y,epochs=passes"))
    assert runs.points.unique[0] == 1000
    assert runs.notes == (
        "no density column: every row is taken as dense",
        "no unique-token column: unique tokens are tokens / epochs",
    )


@pytest.mark.parametrize(
    "column", ["corpus", "dataset", "corpus_fingerprint", "tokenizer", "source", "config/dataset", "Dataset"]
)
def test_a_table_of_two_data_sets_is_never_pooled(column):
    """T-mix."""
    table = [rows(**{column: "python"}), rows(trial_id="b", **{column: "c4"}), rows(trial_id="c", **{column: None})]
    with pytest.raises(ValueError, match=rf"mixes 2 values of '{column}' \(c4, python\).*--where {column}=c4"):
        read(*table)
    assert list(read(*table, where={column: "c4"}).ids) == ["b"]
    with pytest.raises(ValueError, match=r"--where .*=c5: no row has it; did you mean 'c4'"):
        read(*table, where={column: "c5"})


def test_values_that_should_not_be_mixed_are_noted_under_any_spelling():
    for column in ("precision", "config/precision"):
        runs = read(rows(**{column: "fp32"}), rows(trial_id="b", seed=1, **{column: "bf16"}))
        assert f"the table mixes values of {column!r}: their losses may not compare" in runs.notes
        assert len(set(runs.group)) == 2, "another precision is no replicate"


def test_unreadable_sources_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="no table at"):
        read_table(tmp_path / "missing.parquet")
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(ValueError, match=r"cannot read 't\.txt': expected \.parquet, \.csv, \.tsv, \.jsonl"):
        read_table(tmp_path / "t.txt")
    with pytest.raises(ValueError, match="not of the form role=column"):
        parse_mapping("loss")


def test_a_table_without_a_usable_row_lists_the_reasons():
    with pytest.raises(ValueError, match=r"no usable row among 1 .*a: status is failed"):
        read(rows(status="failed"))


def test_points_refuse_what_cannot_be_and_name_it():
    with pytest.raises(ValueError, match=r"density\[1\] is .*1.5"):
        Points.at([1, 1], [1, 1.5], 1, 1)
    with pytest.raises(ValueError, match=r"loss\[0\] is .*nan"):
        Runs.from_arrays(1, 1, 1, 1, np.nan)
