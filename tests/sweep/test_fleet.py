"""Sweeps on a real Ray: killed drivers and killed workers change no number and lose no trial."""

import signal
import time

import pytest

from tests.chaos.plans import many
from tests.sweep import runs
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow


def disturbed_plan(corpus):
    """Six trials of a second or two each, on whatever machine."""
    return many(corpus, 6, epochs=40)


def workers_of(pid: int) -> list[int]:
    return [child for child, name in runs.descendants(pid).items() if name.startswith("ray::RayTrainWorker")]


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    return runs.undisturbed(disturbed_plan(corpus), tmp_path_factory.mktemp("undisturbed"))


def test_kill_the_driver_then_a_worker_and_every_loss_is_the_undisturbed_one(corpus, undisturbed, tmp_path):
    plan = disturbed_plan(corpus)
    driver = runs.start(plan, tmp_path)
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 1, driver, tmp_path)
    ray_processes = runs.descendants(driver.pid)
    runs.kill(driver.pid)
    driver.wait()
    finished_first = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "journal").glob("*.json")}
    assert 1 <= len(finished_first) < len(plan.specs)

    again = runs.start(plan, tmp_path)
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 3 and workers_of(again.pid), again, tmp_path)
    runs.kill(workers_of(again.pid)[0])
    assert again.wait(runs.PATIENCE) == 0, (tmp_path / "log.txt").read_text()

    assert runs.losses(tmp_path) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in finished_first} == finished_first, (
        "a finished trial was run again"
    )
    end = time.monotonic() + runs.PATIENCE  # the dashboard's agent looks for its parent only now and then
    while left := {pid: name for pid, name in ray_processes.items() if is_alive(pid)}:
        assert time.monotonic() < end, f"the killed driver left its Ray behind: {left}"
        time.sleep(0.5)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_workers_train_a_trial_together_quietly_through_a_ctrl_c(corpus, tmp_path):
    plan = small_plan(corpus, epochs=(1, 10), workers=2)
    driver = runs.start(plan, tmp_path, dashboard=True)
    runs.wait_until(lambda: len(runs.journal(tmp_path)) >= 1, driver, tmp_path)
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
    "curves: tensorboard",
    "running,",
    "trials are finished",
    "stopped; finished trials",
)


def is_ours(line: str) -> bool:
    """The lines that a quiet sweep prints: links, progress, and how it ended."""
    return any(word in line for word in QUIET)
