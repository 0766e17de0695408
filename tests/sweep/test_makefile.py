"""The newcomer's commands: torch is installed first and by itself, a second call installs nothing,
and CI uses the same targets.
"""

import os
import re
import runpy
import subprocess
import tomllib

from tests.conftest import REPOSITORY


def would_run(target: str, environment) -> list[str]:
    command = ["make", "--dry-run", f"VENV={environment}", target]
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "ARGS", "WORKERS"))
    }  # `make test` runs this test
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60, env=outside)
    return done.stdout.splitlines()


def test_torch_comes_first_and_by_itself(tmp_path):
    commands = would_run("sweep", tmp_path / "venv")
    installs = [line for line in commands if "pip install" in line]
    assert [line.split()[-1] for line in installs] == ['"torch==2.13.0"', '".[sweep,analysis]"']
    assert commands[-1].split()[-1] == "sweeps/grid.py"


def test_a_second_call_installs_nothing(tmp_path):
    environment = tmp_path / "venv"
    environment.mkdir()
    for stamp in (".installed", ".installed-for-development"):
        (environment / stamp).touch()
    for target in ("sweep", "plan", "test", "lint"):
        assert not [line for line in would_run(target, environment) if "pip" in line or "venv " in line]


def test_a_wheel_holds_every_room_and_the_sweep_scripts(monkeypatch):
    """As `raysparse.sweeps`, the same files as in the clone."""
    packed = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: packed.update(given))
    monkeypatch.chdir(REPOSITORY)
    runpy.run_path("setup.py")
    rooms = {path.parent for top in ("raysparse", "analysis") for path in (REPOSITORY / top).rglob("*.py")}
    names = {".".join(room.relative_to(REPOSITORY).parts) for room in rooms}
    assert names | {"raysparse.sweeps"} == set(packed["packages"])
    assert packed["package_dir"] == {"raysparse.sweeps": "sweeps"}


def test_the_analysis_can_be_installed_without_torch():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["analysis"]]
    assert {re.split(r"[<>=\[]", each)[0] for each in needed} == {"numpy", "pyarrow", "rich", "scipy", "matplotlib"}


def test_ci_runs_the_checks_and_the_tests_in_an_environment_of_its_own():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert all(f'make VENV="$environment/venv" {target}' in text for target in ("lint", "test"))
