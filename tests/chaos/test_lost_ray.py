"""A sweep on one machine outlives its own Ray, whichever part of it dies."""

from __future__ import annotations

import re
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


def test_raylet_gcs_and_broker_are_killed_in_turn_and_the_sweep_goes_on(corpus, tmp_path):
    plan = many(corpus, 4, epochs=20)
    assert sweep(plan, tmp_path / "undisturbed") == 0
    storage = tmp_path / "disturbed"
    driver = runs.start(plan, storage, "--slots", "1")
    for number, victim in enumerate(("raylet", "gcs", "broker"), start=1):
        starts = f"starting another, {number} of 3"

        def trains() -> bool:
            return bool(processes.of(driver.pid, "worker")) and bool(processes.of(driver.pid, "broker"))

        runs.wait_until(trains, driver, storage)
        runs.kill(processes.of(driver.pid, victim)[0])
        runs.wait_until(lambda said=starts: any(said in line for line in lines(storage)), driver, storage)
    assert driver.wait(runs.PATIENCE) == 0, (storage / "log.txt").read_text()
    assert faults_of(storage / "run", losses(tmp_path / "undisturbed" / "run")) == []
    said = [line for line in lines(storage) if "was lost" in line]
    assert [re.sub(r"\(.*\)", "", line) for line in said] == [
        f"Ray on this machine was lost : starting another, {n} of 3" for n in (1, 2, 3)
    ]
    assert not [line for line in lines(storage) if "Traceback" in line or "terminated" in line]
