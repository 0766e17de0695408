"""Every script of sweeps/, from its arguments to its plan and to whatever runs it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from raysparse.spec import TrialSpec
from raysparse.sweep import runner
from raysparse.sweep.plan import Plan
from sweeps import cold_start, decay, grid
from tests.conftest import REPOSITORY
from tests.sweep.plans import small_plan

NAMES = sorted(path.stem for path in (REPOSITORY / "sweeps").glob("*.py"))
PLANNED = [name for name in NAMES if name != "cold_start"]


def started(monkeypatch, script: str | ModuleType, *arguments: str) -> int:
    module = importlib.import_module(f"sweeps.{script}") if isinstance(script, str) else script
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    return module.main()


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_is_printed(name, tmp_path, monkeypatch, capsys):
    assert started(monkeypatch, name, "--plan", "--storage", str(tmp_path)) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert printed
    assert "inf " not in printed, "what has no limit is said in words"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PLANNED)
def test_where_it_runs_reaches_the_runner(name, tmp_path, monkeypatch, capsys):
    seen = {}

    def run(plan, storage, folder, settings, **_):
        seen.update(plan=plan, name=folder, settings=settings)
        raise ValueError("far enough")

    monkeypatch.setattr(runner, "run", run)
    assert started(monkeypatch, name, "--storage", str(tmp_path), "--workers", "2", "--gpus", "0.5") == 2
    assert capsys.readouterr().err == "error: far enough\n"
    place = seen["plan"].placement
    assert (place.workers, place.device, place.device_share) == (2, "cuda", 0.5)
    assert (seen["settings"].gpus, seen["name"]) == (0.5, name)


def test_a_study_runs_and_answers(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decay, "specs", lambda sizes: small_plan(corpus, densities=(0.25,), epochs=(1,)).specs)
    assert started(monkeypatch, decay, "--executor", "inline", "--storage", str(tmp_path)) == 0
    assert "Each density at its own best:" in capsys.readouterr().out


def test_the_cold_start_is_drawn(tmp_path, monkeypatch, capsys):
    changes = np.zeros((2, cold_start.AFTER + 1))
    monkeypatch.setattr(cold_start, "measure", lambda regime, case, seed, store: (changes + seed, 2.0))
    monkeypatch.setattr(cold_start, "prepare", lambda *args, **options: None)
    assert started(monkeypatch, cold_start, "--out", str(tmp_path / "spike.png")) == 0
    assert Path(tmp_path / "spike.png").exists()
    assert "| smet |" in capsys.readouterr().out


# ---------------------------------------------------------------- the grid and its search


def grid_plan(*arguments: str) -> Plan:
    return grid.make_plan(grid.make_parser().parse_args(list(arguments)))


def candidate(plan: Plan) -> TrialSpec:
    """Some trial that the search of a plan may propose."""
    search = plan.planner
    return search.space.trial(search.recipe, search.unique_tokens, search.space.values([0.5] * len(search.space.free)))


@pytest.mark.parametrize(
    ("arguments", "path", "value"),
    [
        (["--set", "optimizer.clip=0.5"], "optimizer.clip", 0.5),
        (["--set", "sparsity.prune=soft_magnitude"], "sparsity.prune", "soft_magnitude"),
        (["--set", "optimizer.lr=0.002", "--search", "weight_decay"], "optimizer.lr", 0.002),
        (["--set", "optimizer.weight_decay=3", "--search", "lr"], "optimizer.weight_decay", 3.0),
        (["--search", "lr"], "optimizer.weight_decay", grid.START_DECAY),
    ],
)
def test_the_search_of_a_grid_holds_fixed_what_the_grid_does(arguments, path, value):
    plan = grid_plan(*arguments)
    assert {spec.at(path) for spec in [*plan.specs, candidate(plan)]} == {value}
    assert Plan.from_dict(plan.to_dict()) == plan


def test_what_is_searched_is_an_axis_whatever_the_grid_begins_with():
    plan = grid_plan("--set", "optimizer.weight_decay=1,3")
    assert plan.planner == grid_plan().planner
    assert {spec.optimizer.weight_decay for spec in plan.specs} == {1.0, 3.0}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("optimizer.clip=0.5,1", r"of which the search takes one; search it too \(--search optimizer.clip=0.5,1.0\)"),
        ("data.validation_tokens=9000", "'data.validation_tokens' does not reach the search"),
    ],
)
def test_what_a_search_cannot_hold_fixed_is_refused(said, message):
    with pytest.raises(ValueError, match=message):
        grid_plan("--set", said)
    assert grid_plan("--search", "--set", said).planner is None, "the grid alone takes it"
