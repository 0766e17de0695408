"""What a docstring, a message or a page names must exist: files, and arguments of commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
CODE = [p for room in ("raysparse", "analysis", "sweeps", "benchmarks") for p in (REPOSITORY / room).rglob("*.py")]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]
EVERYTHING = "\n".join(path.read_text() for path in CODE)

# Paths from the root, from raysparse/ or analysis/, or beside the file that names them.
FILE = re.compile(r"(?<![\w/.<>{}*-])((?:[a-z_]+/)+[a-z_0-9-]+\.(?:py|md|json|yaml))(?![\w*<{])")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
MADE_BY_RUNS = re.compile(r"^(runs|checkpoint|trials|report|journal|notes|reports)/")
# Of other programs that our pages mention: single arguments, and commands with all of theirs.
FOREIGN = {"--help", "--no-wait", "--config", "--logdir", "--editable", "--no-deps"}
COMMANDS = re.compile(
    r"^(?:aws|ray get-auth-token|lm_eval|python -m raysparse.release.harness) .*(?:\n {2}.*)*", re.MULTILINE
)


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_that_are_named_exist(path):
    for name in FILE.findall(path.read_text()):
        if MADE_BY_RUNS.match(name):
            continue
        places = [REPOSITORY, path.parent, *path.parents, REPOSITORY / "raysparse", REPOSITORY / "analysis"]
        assert any((place / name).exists() for place in places), f"{path.name} names {name}, which does not exist"


def test_nothing_is_installed_by_a_name_that_no_index_knows():
    """I-name: from a clone or a wheel alone."""
    found = [
        path.name for path in [*CODE, *PAGES] if re.search(r"pip install ['\"]?raysparse(\[|\s)", path.read_text())
    ]
    assert not found


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_arguments_that_are_named_exist(path):
    for flag in set(FLAG.findall(COMMANDS.sub("", path.read_text()))) - FOREIGN:
        known = f'"{flag}"' in EVERYTHING or ('f"--{name}"' in EVERYTHING and flag[2:] in EVERYTHING)
        assert known, f"{path.name} names {flag}, which no command takes"
