"""Shared by all tests: one small token store made from text kept in this repository, specs that
train in a second, and which tests may run beside each other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from raysparse.files import Folder
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, SparsitySpec, TrialSpec

# Ray gives its workers what others leave (nice 15): beside another process of tests that is little.
os.environ.setdefault("RAY_worker_niceness", "0")

# No test may fail because a machine is slow. Fifty examples, other ones in every run.
settings.register_profile("raysparse", deadline=None, max_examples=50)
settings.load_profile("raysparse")

REPOSITORY = Path(__file__).parent.parent
CORPUS = str(REPOSITORY / "raysparse")
RAY = (  # files that start a Ray: they take turns
    "tests/chaos/test_lost_ray.py",
    "tests/object_store/test_killed.py",
    "tests/sweep/test_fleet.py",
    "tests/sweep/test_gauges.py",
    "tests/sweep/test_machines.py",
    "tests/sweep/test_tune.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest unit first (`tests/schedule.py`)."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in RAY)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """No sweep outlives its test, nor the Ray that it may be on."""
    if runs := sys.modules.get("tests.sweep.runs"):  # what starts them
        runs.end_all()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `pytest -n 2`."""
    from tests.schedule import ByFile

    config.option.loadscopereorder = False  # the order is ours
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums depend on the number of threads in the last bit, and two pytest processes share two
    cores.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory):
    """Tokens of this repository's own Python files."""
    from raysparse.data.store import prepare

    folder = tmp_path_factory.mktemp("tokens")
    return prepare(Folder(folder), CORPUS, "bytes", train_tokens=20_000, validation_tokens=2_000)


def small_trial(method: str = "smet", density: float = 0.25, **changes) -> TrialSpec:
    """A trial of about 40 steps that crosses two epoch boundaries and four topology updates."""
    density = 1.0 if method == "dense" else density
    sparsity = {"method": method, "density": density, "update_every": 8, **changes.pop("sparsity", {})}
    data = {
        "corpus": CORPUS,
        "unique_tokens": 2_049,
        "epochs": 2.6,
        "validation_tokens": 1_000,
        **changes.pop("data", {}),
    }
    return TrialSpec(
        model=changes.pop(
            "model", ModelSpec(hidden=16, intermediate=24, layers=2, heads=2, vocab_size=257, context=32)
        ),
        sparsity=SparsitySpec(**sparsity),
        data=DataSpec(**data),
        optimizer=OptimizerSpec(**{"batch_sequences": 4, "lr": 5e-3, **changes.pop("optimizer", {})}),
        **{"evaluations": 4, **changes},
    )
