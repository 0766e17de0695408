"""A sweep on one machine outlives its driver, its workers and its own Ray, whichever part of that
dies: no number is changed, no trial is lost or run again, and nothing stays behind.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.chaos import processes
from tests.chaos.plans import many
from tests.chaos.sweeps import sweep
from tests.chaos.verdict import faults_of, losses
from tests.sweep import runs

pytestmark = pytest.mark.slow


def lines(storage: Path) -> list[str]:
    return (storage / "log.txt").read_text().splitlines()


def journal(storage: Path) -> dict[Path, int]:
    """The rows that were written, and when."""
    return {path: path.stat().st_mtime_ns for path in (storage / "run" / "journal").glob("*.json")}


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_driver_worker_raylet_gcs_and_broker_are_killed_in_turn_and_every_loss_is_the_undisturbed_one(corpus, tmp_path):
    """The driver while two slots train, all others of the one slot of the driver that goes on."""
    plan = many(corpus, 8, epochs=8)
    assert sweep(plan, tmp_path / "undisturbed") == 0
    storage = tmp_path / "disturbed"
    first = runs.start(plan, storage)
    runs.wait_until(lambda: len(journal(storage)) >= 1, first, storage)
    left_behind = runs.descendants(first.pid)
    runs.kill(first.pid)
    first.wait()
    finished = journal(storage)
    assert 1 <= len(finished) < len(plan.specs)

    driver = runs.start(plan, storage, "--slots", "1")

    def trains() -> bool:
        return bool(processes.of(driver.pid, "worker")) and bool(processes.of(driver.pid, "broker"))

    runs.wait_until(lambda: len(journal(storage)) > len(finished) and trains(), driver, storage)
    runs.kill(processes.of(driver.pid, "worker")[0])
    for number, victim in enumerate(("raylet", "gcs", "broker"), start=1):
        starts = f"starting another, {number} of 3"
        runs.wait_until(trains, driver, storage)
        runs.kill(processes.of(driver.pid, victim)[0])
        runs.wait_until(lambda said=starts: any(said in line for line in lines(storage)), driver, storage)
    assert driver.wait(runs.PATIENCE) == 0, (storage / "log.txt").read_text()

    assert faults_of(storage / "run", losses(tmp_path / "undisturbed" / "run")) == []
    assert finished.items() <= journal(storage).items(), "a finished trial was run again"
    said = [line for line in lines(storage) if "was lost" in line]
    assert [re.sub(r"\(.*\)", "", line) for line in said] == [
        f"Ray on this machine was lost : starting another, {n} of 3" for n in (1, 2, 3)
    ]
    assert not [line for line in lines(storage) if "Traceback" in line or "terminated" in line]
    end = time.monotonic() + runs.PATIENCE  # the dashboard's agent looks for its parent only now and then
    while left := {pid: name for pid, name in left_behind.items() if is_alive(pid)}:
        assert time.monotonic() < end, f"the killed driver left its Ray behind: {left}"
        time.sleep(0.5)
