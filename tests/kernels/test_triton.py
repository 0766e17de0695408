"""The Triton kernels in Triton's interpreter, on any machine.

Interpreting is a mode of the whole process, chosen before triton is imported: so
`test_triton_kernels` runs in a process of its own. On a machine with a GPU the same file also runs
there, compiled.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_kernel_equals_its_reference_in_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", Path(__file__).with_name("test_triton_kernels.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
