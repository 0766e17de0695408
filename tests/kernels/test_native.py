"""The kernels in C: what is kept, what a machine without a compiler does, and the plainest code
that a compiler can make of them.
"""

import subprocess
import sys
import warnings

import pytest
import torch

from raysparse.kernels import ops
from raysparse.kernels.native import library
from tests.kernels import cases, conformance

HERE = library.library()
needs_compiler = pytest.mark.skipif(HERE is None, reason="there is no C compiler, or C is not wanted")


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """A machine that has compiled nothing; the folder that it will keep it in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.library.cache_clear()
    library.function.cache_clear()
    yield tmp_path / "raysparse"
    library.library.cache_clear()
    library.function.cache_clear()


@needs_compiler
@pytest.mark.parametrize("flags", [(), ("-march=native",)], ids=["any processor, one thread", "this one, one thread"])
def test_every_way_to_compile_makes_the_plain_answers(flags, anew, monkeypatch):
    monkeypatch.setattr(library, "TRIED", (("-no-such-flag",), flags))
    assert library.function("adam") is not None
    for name in conformance.CASES:
        if name.split()[0] in ops.PASSES:
            torch.manual_seed(0)
            cases.check(conformance.CASES[name](), "native")


@needs_compiler
def test_it_is_compiled_once_and_again_when_its_source_changes(anew, monkeypatch, tmp_path):
    library.load()
    (kept,) = anew.iterdir()
    made = kept.stat().st_mtime_ns
    library.load()
    assert kept.stat().st_mtime_ns == made
    changed = tmp_path / "kernels.c"
    changed.write_text(library.SOURCE.read_text() + "\n")
    monkeypatch.setattr(library, "SOURCE", changed)
    library.load()
    assert len(list(anew.iterdir())) == 2


@needs_compiler
def test_many_processes_at_once_all_get_it(anew):
    code = "from raysparse.kernels.native import library; assert library.function('adam') is not None"
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", code]) for _ in range(4)]
    assert [one.wait() for one in running] == [0] * 4
    assert len(list(anew.iterdir())) == 1


def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)


def broken_compiler(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'kernels.c: no headers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))


def no_room(monkeypatch, tmp_path):
    (tmp_path / "raysparse").write_text("a file where a folder should be")


def spoilt(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nfor last; do case $last in *.so) echo no library > "$last";; esac; done\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_compiler, "there is no C compiler"),
        (broken_compiler, "cannot compile kernels.c .*no headers"),
        (no_room, "cannot be kept in .*XDG_CACHE_HOME names another place"),
        (spoilt, "loaded from there .*XDG_CACHE_HOME names another place"),
    ],
    ids=["no compiler", "a broken one", "no folder", "a file that is no library"],
)
def test_without_it_torch_answers_after_one_warning(fault, said, anew, monkeypatch, tmp_path):
    fault(monkeypatch, tmp_path)
    case = conformance.CASES["expand (2500, 1), 0.25, float32, float32"]()
    with pytest.warns(UserWarning, match=said):
        cases.check(case, "native")
    with warnings.catch_warnings(action="error"):
        cases.check(case, "native")


def test_torch_can_be_asked_for_and_nothing_else(anew, monkeypatch, recwarn):
    monkeypatch.setenv(library.ASKED, "torch")
    assert library.library() is None
    assert not recwarn.list
    library.library.cache_clear()
    monkeypatch.setenv(library.ASKED, "fast")
    with pytest.raises(ValueError, match="RAYSPARSE_KERNELS is 'fast': expected 'native' or 'torch'"):
        library.library()


@needs_compiler
@pytest.mark.parametrize("target", [-1, 7])
def test_a_target_that_no_logit_has_is_refused(target):
    with pytest.raises(IndexError, match=f"targets reach from .*{target}.* logits from 0 to 6"):
        ops.cross_entropy(torch.zeros(3, 7), torch.tensor([3, target, 3]))
