"""The kernels in C: what is kept, what a machine without a compiler does, and the plainest code
that a compiler can make of them.
"""

import os
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse.kernels import ops
from raysparse.kernels.native import library
from tests.kernels import cases, conformance

HERE = library.library()
USE = "from raysparse.kernels.native import library; assert library.function('adam') is not None"
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
def test_a_compiler_that_takes_openmp_and_has_none_goes_without(anew, monkeypatch, tmp_path):
    """Of a library that is made, a function is missing when it is loaded."""
    compiler = tmp_path / "compiler"
    lacking = 'case "$*" in *openmp*) set -- "$@" -Drintf=missing;; esac'
    compiler.write_text(f'#!/bin/sh\n{lacking}\nexec {shutil.which("gcc") or "cc"} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert library.function("adam") is not None


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
def test_one_that_cannot_be_loaded_is_compiled_again(anew):
    subprocess.run([sys.executable, "-c", USE], check=True)
    (kept,) = anew.iterdir()
    kept.write_bytes(b"")
    assert library.function("adam") is not None
    assert list(anew.iterdir()) == [kept]


@needs_compiler
def test_machines_with_different_c_libraries_share_a_home(anew, monkeypatch):
    library.load()
    monkeypatch.setattr(library.platform, "libc_ver", lambda: ("glibc", "2.17"))
    library.load()
    assert len(list(anew.iterdir())) == 2


@needs_compiler
def test_many_processes_at_once_all_get_it(anew):
    running = [subprocess.Popen([sys.executable, "-W", "error", "-c", USE]) for _ in range(4)]
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


def no_home(monkeypatch, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)  # nobody's


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_compiler, "there is no C compiler"),
        (broken_compiler, "cannot compile kernels.c .*no headers"),
        (no_room, "cannot be kept in .*XDG_CACHE_HOME names another place"),
        (spoilt, "loaded from there .*XDG_CACHE_HOME names another place"),
        (no_home, "have no folder .*XDG_CACHE_HOME names one"),
    ],
    ids=["no compiler", "a broken one", "no folder", "a file that is no library", "no home"],
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


def check_as_in_torch(operation, *arguments, **named):
    """What it makes of copies of the arguments, and what it returns."""
    made = []
    for backend in ("native", "torch"):
        made.append([cases.copied(a) if isinstance(a, torch.Tensor) else a for a in arguments])
        with ops.using(backend):
            made[-1].append(operation(*made[-1], **named))
    torch.testing.assert_close(*made, rtol=1e-5, atol=1e-5, equal_nan=True)


@needs_compiler
@given(
    blocks=st.integers(1, 70) | st.integers(1000, 1100) | st.integers(2040, 2060),
    size=st.integers(1, 3) | st.sampled_from([16, 33]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dtypes=st.sampled_from([("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]),
    seed=st.integers(0, 99),
)
def test_storage_of_any_size_is_as_in_torch(blocks, size, density, dtypes, seed):
    """To the bit, with nothing read or written beyond: what lies behind is as it was."""
    torch.manual_seed(seed)
    stored, computed = (getattr(torch, name) for name in dtypes)
    mask, active = conformance.random_mask(blocks, density)
    values, dense = torch.randn(active * size).to(stored), torch.randn(blocks, size).to(computed)
    place = ops.bases(mask)
    out, grad = (
        [torch.full((n + 64,), 7.0).to(d) for _ in range(2)]
        for n, d in ((blocks * size, computed), (active * size, stored))
    )
    for i, backend in enumerate(("native", "torch")):
        with ops.using(backend):
            ops.expand(values, mask, place, out[i][:-64].view(blocks, size))
            ops.compact_accumulate(dense, mask, place, grad[i][:-64])
    assert torch.equal(*out)
    assert torch.equal(*grad)


LOGITS = torch.arange(30.0).view(3, 10).sin()
TARGETS = torch.tensor([[7, 1], [8, 9], [9, 0]])


@needs_compiler
@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (LOGITS, TARGETS[:, 1]),
        (LOGITS, TARGETS[:, 1].int()),
        (LOGITS.view(10, 3).t(), TARGETS[:, 1].contiguous()),
        (LOGITS[:0], TARGETS[:0, 1]),
        (torch.full((3, 10), 3e38), TARGETS[:, 0]),
        (LOGITS.log(), TARGETS[:, 1].contiguous()),  # NaN where the sine is negative
        (LOGITS.clamp(min=0).log(), TARGETS[:, 1].contiguous()),  # and -inf
    ],
    ids=["strided targets", "int32 targets", "columns first", "no rows", "at the end of float32", "NaN", "-inf"],
)
def test_odd_logits_and_targets_are_as_in_torch(logits, targets):
    check_as_in_torch(ops.cross_entropy, logits, targets)


@needs_compiler
def test_another_default_dtype_changes_nothing():
    """The losses are float32 to C, whatever torch makes unasked."""
    torch.set_default_dtype(torch.float64)
    try:
        check_as_in_torch(ops.cross_entropy, LOGITS, TARGETS[:, 1].contiguous())
    finally:
        torch.set_default_dtype(torch.float32)


@needs_compiler
@pytest.mark.parametrize("beta1", [0.0, 0.3])
def test_with_little_momentum_a_large_moment_is_forgotten_as_in_torch(beta1):
    """Without any the moment is the gradient, of which a difference from 1e8 would keep nothing."""
    named = {"beta1": beta1, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "noise": 0}
    state = torch.zeros(40), torch.arange(40.0), torch.full((40,), 1e8 if beta1 == 0 else 3.0), torch.ones(40)
    check_as_in_torch(
        ops.adam_step, *state, None, torch.ones(1), torch.ones(1), gradient_factor=torch.tensor(0.5), **named
    )
