"""A sweep killed at every named point, alone and in sequences that hypothesis chooses, and resumed:
the folder is the one of a sweep that nobody disturbed.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysparse import faults
from tests.chaos.plans import many, tiny_plan
from tests.chaos.sweeps import steps_taken, sweep
from tests.chaos.verdict import Losses, faults_of, losses
from tests.conftest import REPOSITORY
from tests.sweep import runs

KILLED = -9
LOCAL = sorted(set(faults.POINTS) - {"lock.renewed"})


@pytest.fixture(scope="module")
def undisturbed(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    storage = tmp_path_factory.mktemp("undisturbed")
    assert sweep(tiny_plan(corpus), storage) == 0
    found = losses(storage / "run")
    assert len(found) == 3
    assert faults_of(storage / "run", found) == []
    return found


def named_in_the_code() -> list[str]:
    """Every name that a call of `faults.point` has, and where its name is not a plain string."""
    found = []
    for path in sorted((REPOSITORY / "raysparse").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("faults.point"):
                [name] = node.args
                found.append(name.value if isinstance(name, ast.Constant) else f"{path}: {ast.unparse(name)}")
    return found


def test_the_list_holds_every_point_of_the_code_once():
    assert sorted(named_in_the_code()) == sorted(faults.POINTS)


@pytest.mark.parametrize("point", sorted(faults.POINTS))
def test_killed_at_a_point_and_resumed(point, corpus, undisturbed, tmp_path):
    remote = point == "lock.renewed"
    assert sweep(tiny_plan(corpus), tmp_path, point, remote_lock=remote) == KILLED, "every point is reached"
    assert sweep(tiny_plan(corpus), tmp_path, remote_lock=remote) == 0
    assert faults_of(tmp_path / "run", undisturbed) == []
    check_ledger(tmp_path, kills=1)


def check_ledger(storage: Path, kills: int) -> None:
    """It holds what rows hold and what was lost: every step that was computed, but for the one that
    each kill can hide from a checkpoint after every step.
    """
    taken, ledger = steps_taken(storage), json.loads((storage / "run" / "ledger.json").read_text())
    charged = {trial_id: work["steps"] for trial_id, work in ledger.items()}
    assert sum(taken.values()) - kills <= sum(charged.values()) <= sum(taken.values())
    assert all(charged[trial_id] <= steps for trial_id, steps in taken.items())


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(LOCAL), st.integers(1, 30)), min_size=2, max_size=5))
def test_killed_again_and_again(corpus, undisturbed, tmp_path_factory, sequence):
    """The nth time that a process comes to a point; one that is never reached disturbs nothing."""
    storage = tmp_path_factory.mktemp("sequence")
    codes = [sweep(tiny_plan(corpus), storage, f"{point}:{nth}") for point, nth in sequence]
    assert set(codes) <= {KILLED, 0}
    assert sweep(tiny_plan(corpus), storage) == 0
    assert faults_of(storage / "run", undisturbed) == []
    check_ledger(storage, kills=codes.count(KILLED))


def test_a_table_that_is_older_than_the_last_row_is_made_again(corpus, tmp_path):
    assert sweep(many(corpus, 1), tmp_path) == 0
    assert sweep(many(corpus, 2), tmp_path, "journal.written") == KILLED
    assert len(losses(tmp_path / "run")) == 1
    assert sweep(many(corpus, 2), tmp_path) == 0
    assert len(losses(tmp_path / "run")) == 2


def test_the_variable_is_all_it_takes(corpus, tmp_path, monkeypatch):
    """A command as a person starts it, and no server that forks."""
    monkeypatch.setenv(faults.VARIABLE, "journal.written:2")
    process = runs.start(tiny_plan(corpus), tmp_path, "--executor", "inline")
    assert process.wait(runs.PATIENCE) == KILLED
    assert len(runs.journal(tmp_path)) == 2


@pytest.mark.parametrize("wanted", ["nowhere", "journal.written:0", "journal.written:often", ""])
def test_a_point_that_is_none_is_refused(wanted):
    with pytest.raises(ValueError, match=r"RAYSPARSE_KILL_AT is .*, expected NAME or NAME:NTH with NAME one of"):
        faults._killer(wanted)


def test_without_the_variable_a_point_does_nothing():
    assert faults.point is faults._nothing
    program = "import sys, raysparse.faults as f; f.point('journal.written'); print(f.point is f._nothing)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout == "True\n"
