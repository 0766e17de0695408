"""docs/analysis.md is run, not only written: its Python block executes as it stands, and its verbs
and laws exist.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.data.columns import COUNTS
from analysis.laws import LAWS

PAGE = (Path(__file__).parents[2] / "docs" / "analysis.md").read_text()


def test_the_python_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(compile(block, "docs/analysis.md", "exec"), {"__name__": "docs"})
    assert "A first look" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.html").exists()


def test_every_verb_of_the_page_has_help(capsys):
    for verb in set(re.findall(r"python -m analysis (\w+)", PAGE)):
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_laws_named_on_the_page_exist():
    for name in re.findall(r"`(sparse_\w+|chinchilla\w*)`", PAGE):
        assert name in LAWS or name in COUNTS
