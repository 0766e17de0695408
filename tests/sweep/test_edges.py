"""Edges of the command line, as people met them (the cases S-* and I-*): nothing is eaten, nothing
is written before the last refusal, and every refusal says what to do.
"""

from __future__ import annotations

import errno
import io
import os
import socket
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
from rich.console import Console

from raysparse.console import cli, script, terminal
from raysparse.console.progress import Display
from raysparse.files import Folder, write_file_atomically
from raysparse.placement import Placement
from raysparse.run_folder import RunFolder
from raysparse.sweep import runner
from raysparse.sweep.budget import Budget
from raysparse.sweep.ray import cluster
from raysparse.sweep.settings import Settings
from tests.conftest import REPOSITORY
from tests.sweep.plans import small_plan, write_corpus

INLINE = Settings(executor="inline")


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", ["runs [old]/x", "[red]", "a:smile:b", "[/]", "[link=x]"])
def test_markup_in_names_is_text(name, tmp_path):
    """S-markup: on the live view, its status, and tables."""
    out = io.StringIO()
    console = terminal.console()
    console.file = out
    view = Display(console=console)
    view.say(f"said {name}")
    with view.busy(f"preparing {name}"):
        pass
    console.print(f"line {name}")
    from rich.table import Table

    table = Table()
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    assert out.getvalue().count(name) == 4


def test_a_sweep_of_bracketed_names_runs_to_its_report(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "a corpus [v1]")
    script.save_plan(small_plan(corpus, densities=(1.0,), epochs=(1,)), str(tmp_path / "plan.json"))
    storage = tmp_path / "runs [new]"
    command = ["sweep", str(tmp_path / "plan.json"), "--storage", str(storage), "--name", "[b]", "--executor", "inline"]
    assert cli.main(command) == 0
    assert "runs [new]/[b]/results.parquet" in capsys.readouterr().out
    assert cli.main(["status", str(storage / "[b]")]) == 0
    assert "runs [new]/[b]: 1 of 1 trials finished" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "..", "tokens", "a\\b"])
def test_a_name_that_is_no_folder_name_is_refused_before_anything_is_written(name, tmp_path, corpus):
    """S-name."""
    with pytest.raises(ValueError, match=r"--name is .*, expected a plain folder name other than 'tokens'"):
        runner.run(small_plan(corpus), Folder(tmp_path / "runs"), name, INLINE)
    assert everything(tmp_path) == set()


class Listener:
    """Something that listens on a port and answers in its own way."""

    def __init__(self, answer: bytes):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, args=(answer,), daemon=True).start()

    def _serve(self, answer: bytes) -> None:
        line, _ = self._socket.accept()
        line.recv(100)
        line.sendall(answer)
        time.sleep(1)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"SSH-2.0-OpenSSH_9\r\n"])
def test_something_else_at_the_address_is_said_and_leaves_the_name_free(answer, tmp_path, corpus, monkeypatch):
    """S-start."""
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT", 0.5)
    settings = Settings(address=Listener(answer).address)
    with pytest.raises(ValueError, match=r"no Ray cluster answers at .*something else listens there.*check --address"):
        runner.run(small_plan(corpus), Folder(tmp_path), "run", settings)
    assert not (tmp_path / "run" / "plan.json").exists()
    assert not (tmp_path / "run" / "results.parquet").exists()


def test_a_grpc_server_is_let_through():
    """It answers the preface of HTTP/2 with its settings."""
    cluster._knock(Listener(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))).address)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "127.0.0.1:", ":6379", "127.0.0.1:ray"])
def test_an_address_without_a_port_is_refused(address):
    with pytest.raises(ValueError, match=r"--address is .*, expected HOST:PORT \(Ray's is 6379\), auto or local"):
        cluster._knock(address)


def test_a_temporary_folder_that_is_too_long_for_sockets_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    with (
        pytest.raises(ValueError, match=r"too long for the sockets of Ray .*set RAY_TMPDIR=/tmp, or use"),
        cluster.joined(Settings(), Placement(), "nobody"),
    ):
        pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    cluster._check_temporary_folder()


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    """S-disk."""
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: '.*here\.json'"):
        write_file_atomically(tmp_path / "here.json", b"x")
    assert everything(tmp_path) == set()


def test_a_full_disk_ends_the_sweep_and_the_next_run_continues(tmp_path, corpus, monkeypatch):
    from raysparse.sweep import attempt
    from raysparse.train import trial

    tried = []
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", lambda spec, *_, **__: (tried.append(spec), full_disk()))
        summary = runner.run(small_plan(corpus), Folder(tmp_path), "run", INLINE)
    assert len(tried) == 1
    assert attempt.trial is trial
    assert len(summary.unfinished) == 4
    assert any("No space left on device" in reason for reason in summary.unfinished.values())
    assert runner.run(small_plan(corpus), Folder(tmp_path), "run", INLINE).is_complete


def test_an_ascii_terminal_sees_the_whole_output(tmp_path):
    """S-ascii."""
    code = "from raysparse.console import script; script.guarded(lambda: print('naïve [数据]') or 0)()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "na?ve [??]\n")


def test_a_budget_that_buys_nothing_is_an_error_with_the_cheapest_price(tmp_path, corpus):
    """S-budget."""
    with pytest.raises(ValueError, match=r"buys none of the 4 trials: the cheapest costs .*; raise --max-flops"):
        runner.run(small_plan(corpus, budget=Budget(total=1.0)), Folder(tmp_path), "run", INLINE)
    assert everything(tmp_path) == set()


def test_a_changed_corpus_under_a_sweep_is_refused_before_a_trial(tmp_path):
    """T-mix: and the fingerprints are said."""
    corpus = write_corpus(tmp_path / "corpus")
    assert runner.run(small_plan(corpus, epochs=(1,)), Folder(tmp_path / "runs"), "run", INLINE).is_complete
    (tmp_path / "corpus" / "another.py").write_text("a = 1\n" * 100)

    def states() -> dict[Path, int]:
        files = {path for path in everything(tmp_path / "runs") if path.is_file()}
        return {path: path.stat().st_mtime_ns for path in files if path.name != "driver.lock"}

    before = states()
    with pytest.raises(ValueError, match=r"has changed since the results .* \(fingerprint \w{8} then, \w{8} now\)"):
        runner.run(small_plan(corpus, epochs=(1, 2)), Folder(tmp_path / "runs"), "run", INLINE)
    assert states() == before


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch, capsys):
    """I-name."""

    def command() -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert script.guarded(command)() == 2
    assert "pip install '.[train]' in the clone of raysparse" in capsys.readouterr().err

    def bug() -> int:
        raise ModuleNotFoundError("No module named 'raysparse.nothing'", name="raysparse.nothing")

    with pytest.raises(ModuleNotFoundError):
        script.guarded(bug)()


def test_an_analysis_of_the_users_own_is_named(monkeypatch, capsys):
    """I-name: it hides ours where a script is started as `python -m` in its folder."""
    theirs = types.ModuleType("analysis")
    theirs.__file__ = "/home/them/analysis.py"
    monkeypatch.setitem(sys.modules, "analysis", theirs)

    def command() -> int:
        raise ModuleNotFoundError("No module named 'analysis.show'", name="analysis.show")

    assert script.guarded(command)() == 2
    assert "/home/them/analysis.py hides the analysis of raysparse; start in another folder" in capsys.readouterr().err


def test_what_was_left_out_of_a_corpus_is_said_at_the_start(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"caf\xe9")
    console = Console(file=io.StringIO(), width=300)
    plan = small_plan(corpus, densities=(1.0,), epochs=(1,))
    runner.run(plan, Folder(tmp_path / "runs"), "run", INLINE, view=Display(console=console))
    assert "1 documents not of their encoding" in console.file.getvalue()
    assert "bad.txt: byte 0xe9 at 3 is not utf-8" in console.file.getvalue()
    [spec] = plan.specs
    folder = RunFolder.named(Folder(tmp_path / "runs"), "run")
    assert (
        folder.tokens(spec.data.corpus, spec.data.tokenizer).read_json("manifest.json")["corpus_facts"]["undecodable"]
        == 1
    )
