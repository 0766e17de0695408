"""A driver of a sweep on Ray that is killed, kill -9, on an S3 server, and started again: every
trial has one row, the losses are those of a sweep that nobody disturbed, and requests stay few.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest

from raysparse.files import Folder
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.sweep import runner
from raysparse.sweep.settings import Settings
from tests.chaos.plans import many
from tests.sweep import runs
from tests.sweep.plans import write_corpus

pytestmark = pytest.mark.slow

# The lock of a killed driver may be taken over after a minute; argument 1 says after how long here.
DRIVER = """
import sys
from raysparse.sweep import lock
lock.STALE_AFTER = float(sys.argv.pop(1))
from raysparse.console.cli import main
sys.exit(main())
"""
MINUTE, AT_ONCE = ("-c", DRIVER, "60"), ("-c", DRIVER, "0")


def rows_of(folder: Folder) -> dict[str, tuple]:
    """What must be equal bit for bit, by trial id."""
    return {
        row["trial_id"]: (row["status"], row["train_loss"], row["validation_loss"], row["evaluations"])
        for row in Results(RunFolder(folder.uri)).rows()
    }


def test_a_killed_driver_is_continued_with_few_requests(s3, tmp_path):
    pytest.importorskip("boto3", reason="conditional writes need boto3")
    plan = many(write_corpus(tmp_path / "text"), 6, epochs=8, checkpoint_seconds=20.0)  # one is five requests
    runner.run(plan, Folder(tmp_path / "alone"), "run", Settings(executor="inline"))
    storage, asked = Folder(s3.uri("killed")), []

    def is_a_row_written() -> bool:
        asked.extend(s3.requests())
        return any(method == "PUT" and "/journal/" in path for method, path in asked)

    arguments = ("--storage", storage.uri, "--slots", "1")
    driver = runs.start(plan, tmp_path, *arguments, program=MINUTE)
    runs.wait_until(is_a_row_written, driver, tmp_path)
    runs.kill(driver.pid)
    driver.wait()
    refused = runs.start(plan, tmp_path, *arguments, program=MINUTE)
    assert refused.wait(runs.PATIENCE) == 2
    assert "is in use by another sweep" in (tmp_path / "log.txt").read_text()
    assert len(rows_of(storage.child("run"))) < len(plan.specs), "it was killed in the middle"
    again = runs.start(plan, tmp_path, *arguments, program=AT_ONCE)
    assert again.wait(runs.PATIENCE) == 0, (tmp_path / "log.txt").read_text()
    asked += s3.requests()
    assert rows_of(storage.child("run")) == rows_of(Folder(tmp_path / "alone" / "run"))
    with_time = "/driver.lock"  # four a minute, however many trials there are
    beyond_data = [(method, path) for method, path in asked if "/tokens/" not in path and with_time not in path]
    kinds = Counter(f"{method} {re.sub(r'[?].*|[0-9a-f]{12}', '', path)}" for method, path in beyond_data)
    assert len(beyond_data) <= 30 * len(plan.specs), f"a kill and three starts included: {kinds.most_common()}"
