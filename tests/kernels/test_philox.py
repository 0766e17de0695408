"""Random words: the published test vectors, the same bits as Triton's generator, and streams that
do not meet.
"""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse.kernels import philox


def test_known_answer_of_the_paper():
    """Philox4x32-10 with key 0 and counter 0 (Random123's known-answer file)."""
    assert [hex(w) for w in philox.words(0, 0, 4).tolist()] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@given(key=st.integers(0, 2**64 - 1), span=st.tuples(st.integers(0, 300), st.integers(0, 300)).map(sorted))
def test_a_word_depends_on_its_number_alone(key, span):
    """Not on how many were asked for, or on where the asking began."""
    start, stop = span
    assert torch.equal(philox.words(key, start, stop), philox.words(key, 0, 400)[start:stop])


def test_portions_do_not_show(monkeypatch):
    whole = philox.words(7, 0, 1000)
    monkeypatch.setattr(philox, "PORTION", 3)
    assert torch.equal(philox.words(7, 0, 1000), whole)


@given(key=st.integers(0, 2**64 - 1), start=st.integers(0, 2**40), count=st.integers(1, 40))
def test_a_gpu_gets_the_words_of_a_cpu(key, start, count):
    """There torch works them out, here numpy does: the counters of both are tried on this CPU."""
    by_torch = torch.stack(philox._four_words(key, torch.arange(start, start + count)), dim=1)
    assert torch.equal(by_torch, philox.quadruples(key, start, start + count))


def test_uniform_numbers_are_inside_the_open_interval_and_spread():
    u = philox.uniform(philox.words(3, 0, 100_000))
    assert u.min() > 0.0
    assert u.max() < 1.0
    assert abs(u.mean().item() - 0.5) < 0.005
    assert abs(u.var().item() - 1 / 12) < 0.002
    ends = philox.uniform(torch.tensor([0, 2**32 - 1]))
    assert 0.0 < ends[0] < ends[1] < 1.0


def test_neighbouring_purposes_have_different_streams():
    keys = {philox.stream(seed, matrix, update, 4) for seed in range(5) for matrix in range(5) for update in range(5)}
    assert len(keys) == 125


def test_the_same_bits_as_triton(tmp_path):
    """A GPU makes its choices with tl.randint4x; here in Triton's interpreter, a global mode and so
    a process of its own.
    """
    pytest.importorskip("triton", reason="triton is not installed")
    program = textwrap.dedent("""
        import torch, triton, triton.language as tl
        from raysparse.kernels import philox

        @triton.jit
        def four(out, key, n: tl.constexpr):
            at = tl.arange(0, n)
            a, b, c, d = tl.randint4x(key, at)
            tl.store(out + 4 * at, a.to(tl.int32, bitcast=True))
            tl.store(out + 4 * at + 1, b.to(tl.int32, bitcast=True))
            tl.store(out + 4 * at + 2, c.to(tl.int32, bitcast=True))
            tl.store(out + 4 * at + 3, d.to(tl.int32, bitcast=True))

        for key in (0, 5, 2**40 + 12345):
            out = torch.zeros(256, dtype=torch.int32)
            four[(1,)](out, key, 64)
            assert torch.equal(out.long() & 0xFFFFFFFF, philox.words(key, 0, 256)), key
    """)
    script = tmp_path / "philox_in_triton.py"  # triton reads a kernel's source, so it must stand in a file
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
