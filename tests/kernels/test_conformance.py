"""Every operation of every backend makes what `conformance` says: torch anywhere, C where there is
a compiler, Triton on a GPU where there is one, else in its interpreter.

Interpreting is a mode of the whole process, chosen before triton is imported: so the last test runs
this file and `test_triton` again in a process of its own.
"""

import importlib
import inspect
import os
import subprocess
import sys

import pytest
import torch

from raysparse.kernels import ops
from raysparse.kernels.native import library
from tests.kernels import cases, conformance

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HAS_TRITON = IS_INTERPRETED or torch.cuda.is_available()
DEVICES = {"torch": "cpu", "triton": "cpu" if IS_INTERPRETED else "cuda"}
BACKENDS = ["triton"] if IS_INTERPRETED else ["torch", *(["triton"] if HAS_TRITON else [])]
NOT_OPERATIONS = {"using", "library", "_has_triton", "_twin"}
OPERATIONS = {name for name, value in vars(ops).items() if hasattr(value, "__wrapped__")} - NOT_OPERATIONS
IN_C = [] if IS_INTERPRETED else [name for name in conformance.CASES if name.split()[0] in ops.PASSES]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", conformance.CASES)
def test_the_answer_is_the_plain_one(name, backend):
    torch.manual_seed(0)
    cases.check(conformance.CASES[name](device=DEVICES[backend]), backend)


@pytest.mark.skipif(library.library() is None, reason="there is no C compiler, or C is not wanted")
@pytest.mark.parametrize("name", IN_C)
def test_the_answer_in_c_is_the_plain_one(name):
    torch.manual_seed(0)
    cases.check(conformance.CASES[name](), "native")


def test_every_operation_has_cases():
    one_each = {(call.func, str(call.args[0])): call for call in conformance.CALLS}.values()
    assert {call().operation for call in one_each} == {getattr(ops, name) for name in OPERATIONS}


TWINS = [("triton", name) for name in sorted(OPERATIONS - ops.PLAIN)] + [
    ("native", name) for name in sorted(ops.PASSES)
]


@pytest.mark.parametrize(("backend", "name"), TWINS)
def test_twins_have_the_same_place_name_and_signature(backend, name):
    if backend == "triton":
        pytest.importorskip("triton", reason="triton is not installed")
    plain = getattr(ops, name).__wrapped__
    there = importlib.import_module(plain.__module__.replace("kernels.torch", f"kernels.{backend}"))
    assert inspect.signature(getattr(there, plain.__name__)) == inspect.signature(plain)


@pytest.mark.skipif(HAS_TRITON, reason="Triton's own answers are checked in this process")
def test_triton_makes_the_plain_answers_in_its_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__, __file__.replace("conformance", "triton")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
