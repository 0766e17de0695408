"""Tables that several tests read, and the rule for the one that may not be shipped."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pyarrow import csv

from analysis.data.points import Points
from analysis.data.table import Runs, read_table

DATA = Path(__file__).parent / "data"
LOCAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def chinchilla() -> Callable[[bool], Runs]:
    """The digitised Chinchilla runs: all 245, or without the five outliers."""
    folder = Path(os.environ.get("RAYSPARSE_SHARED_DATA", LOCAL))
    path = folder / "epoch_chinchilla_245.csv"
    if not path.exists():
        pytest.skip(
            "epoch_chinchilla_245.csv has no licence and is not shipped; set RAYSPARSE_SHARED_DATA to its folder"
        )

    def read(outliers: bool) -> Runs:
        table = csv.read_csv(path)
        if not outliers:
            table = table.filter(pc.equal(table["excluded_outlier"], False))
        return read_table(table, {"active": "params"})

    return read


@pytest.fixture(scope="session")
def datablations() -> Runs:
    return read_table(DATA / "datablations_fit182.csv", {"active": "params"})


@pytest.fixture(scope="session")
def synthetic() -> Callable[[str], Runs]:
    def read(column: str) -> Runs:
        return read_table(DATA / "synthetic_sparse500.csv", {"loss": column, "active": "active_params"})

    return read


@pytest.fixture(scope="session")
def held_out() -> Runs:
    """The 11 held-out runs, with N = N_dense_equiv * density as the published law counts."""
    runs = read_table(DATA / "dc_heldout.csv", {"loss": "loss_true", "active": "N_dense_equiv"})
    p = runs.points
    return replace(runs, points=Points(p.active * p.density, p.density, p.unique, p.tokens))


@pytest.fixture(scope="session")
def isoloss() -> Runs:
    return read_table(DATA / "dc_isoloss_decoded.csv", {"loss": "loss_decoded_from_png", "active": "N_active"})
