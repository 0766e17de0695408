"""A sweep of several workers a trial on a real Ray, which is quiet; who is killed there is in
`tests/chaos/test_lost_ray.py`.
"""

import re
import signal
import urllib.request

import pytest

from tests.sweep import runs
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow


def test_two_workers_train_a_trial_together_quietly_through_a_ctrl_c(corpus, tmp_path):
    plan = small_plan(corpus, epochs=(1, 10), workers=2)
    driver = runs.start(plan, tmp_path, dashboard=True)
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 1, driver, tmp_path)
    page = re.search(r"gauges: (http\S+)", (tmp_path / "log.txt").read_text())
    assert page is not None
    with urllib.request.urlopen(page[1], timeout=10) as answer:
        assert "running" in answer.read().decode()
    driver.send_signal(signal.SIGINT)
    status, interrupted = driver.wait(runs.PATIENCE), (tmp_path / "log.txt").read_text()
    assert status == 130, interrupted
    assert "Run the same command again to continue." in interrupted
    assert "dashboard: http" in interrupted
    assert (tmp_path / "run" / "results.parquet").exists(), "what is finished can be read"
    printed = runs.finish(plan, tmp_path)
    assert "dashboard: http" not in printed
    expected = runs.undisturbed(small_plan(corpus, epochs=(1, 10)), tmp_path / "alone")
    together = runs.losses(tmp_path)
    assert together.keys() == expected.keys()
    for trial_id, row in together.items():
        assert row[2] == pytest.approx(expected[trial_id][2], rel=1e-4), "more workers only change the order of sums"
    assert [line for line in (interrupted + printed).splitlines() if line and not is_ours(line)] == []

    printed = runs.finish(plan, tmp_path)
    assert "nothing to do: 4 of 4" in printed
    assert "Ray on this machine" not in printed, "a finished sweep starts no Ray"


QUIET = (
    "Ray on this machine:",
    "dashboard:",
    "gauges:",
    "curves: tensorboard",
    "running,",
    "trials are finished",
    "stopped; finished trials",
)


def is_ours(line: str) -> bool:
    """The lines that a quiet sweep prints: links, progress, and how it ended."""
    return any(word in line for word in QUIET)
