"""A second process that shares the work: same results, whole errors, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from operator import floordiv

import numpy as np
import pytest

from analysis.answer.ensemble import ensemble
from analysis.answer.study import analyse
from analysis.beside import ALONE, Alone, Beside, second
from analysis.data.files import dumps
from analysis.data.table import read_table
from analysis.fit.select import candidates
from analysis.show.report.summary import numbers
from tests.analysis.tables import laptop


@pytest.fixture
def beside():
    shared = Beside()
    yield shared
    shared.close()


@pytest.mark.parametrize("alone", [True, False])
def test_results_come_in_order(alone, beside):
    shared: Alone = ALONE if alone else beside
    assert shared.each(floordiv, range(50, 90), range(1, 41)) == [
        a // b for a, b in zip(range(50, 90), range(1, 41), strict=True)
    ]
    assert shared.each(floordiv, [], []) == []


def test_what_was_begun_before_is_done_there_and_what_was_not_is_done_here(beside):
    begun = beside.begin(os.getpid)
    beside.line.submit(int).result()  # its turn comes after what was begun before
    assert begun() == beside.process.pid
    busy, waiting = beside.begin(time.sleep, 0.5), beside.begin(os.getpid)
    assert waiting() == os.getpid()
    assert busy() is None


def test_an_error_is_raised_here_as_without_it(beside):
    begun = beside.begin(floordiv, 1, 0)
    beside.line.submit(int).result()
    with pytest.raises(ZeroDivisionError) as raised:
        begun()
    assert raised.traceback[-1].path.name == "beside.py", "it was called in this process"
    assert beside.begin(floordiv, 6, 3)() == 2, "the second process goes on"


def test_work_goes_on_here_when_the_second_process_is_killed(beside):
    begun = beside.begin(time.sleep, 0.2)
    beside.process.kill()
    assert begun() is None
    assert beside.each(floordiv, [6, 8], [3, 2]) == [2, 4]


def test_the_second_process_ends_with_this_one_however_that_ends():
    program = (
        "from analysis.beside import Beside; import os, signal; from operator import floordiv;"
        "b = Beside(); b.begin(floordiv, 1, 1)(); print(b.process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    left = int(done.stdout)
    for _ in range(200):
        if not _lives(left):
            return
        time.sleep(0.05)
    pytest.fail("the second process outlived the first")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{process}/stat") as file:  # one that ended may wait for somebody to ask
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_study_is_the_same_to_the_last_digit():
    runs = read_table(laptop(epochs=(1, 3, 9), uniques=(100_000,)))
    with second() as shared:
        told = [dumps(numbers(analyse(runs, bootstraps=10, beside=each), "t")) for each in (ALONE, shared)]
        tried = candidates(runs, delta=1e-2, names=("sparse_small", "sparse_small_overfit"), beside=shared)
        laws = [ensemble(tried, 10, beside=each) for each in (ALONE, shared)]
    assert told[0] == told[1]
    np.testing.assert_array_equal(laws[0].pulls, laws[1].pulls)
    for one, other in zip(laws[0].theta, laws[1].theta, strict=True):
        np.testing.assert_array_equal(one, other)
