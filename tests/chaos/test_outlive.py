"""What a driver does when the Ray under it is lost, with a Ray that is played: it goes on from the
folder, a bounded number of times, and never with a cluster that is somebody else's.
"""

from __future__ import annotations

import dataclasses

import pytest

from raysparse.files import Folder
from raysparse.sweep import runner
from raysparse.sweep.settings import RayLostError, Settings
from raysparse.sweep.snapshot import Unseen
from tests.chaos.plans import many

INLINE = Settings(executor="inline")


class Listener(Unseen):
    """A view that remembers what was said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def lost(monkeypatch):
    """Makes the next so many executions end as with a lost Ray, each after one trial, inline; the
    answer is what each was asked to do.
    """
    real, asked = runner._execute, []

    def after(times):
        def execute(left, folder, results, settings, view):
            asked.append(len(left.chosen))
            if len(asked) > times:
                real(left, folder, results, INLINE, view)
                return
            real(dataclasses.replace(left, chosen=left.chosen[:1]), folder, results, INLINE, view)
            raise RayLostError("Ray on this machine was lost (its raylet ended)")

        monkeypatch.setattr(runner, "_execute", execute)
        return asked

    return after


def test_it_goes_on_with_what_the_folder_says_is_left(lost, corpus, tmp_path):
    asked, view = lost(2), Listener()
    summary = runner.run(many(corpus, 4), Folder(tmp_path), "run", Settings(), view=view)
    assert asked == [4, 3, 2]
    assert (summary.finished, summary.unfinished) == (4, {})
    assert [line for line in view.lines if "lost" in line] == [
        f"Ray on this machine was lost (its raylet ended): starting another, {n} of 3" for n in (1, 2)
    ]


def test_a_sweep_that_was_finished_when_its_ray_was_lost_starts_no_other(lost, corpus, tmp_path):
    asked = lost(9)
    assert runner.run(many(corpus, 2), Folder(tmp_path), "run", Settings()).is_complete
    assert asked == [2, 1]


def test_what_ends_it_four_times_ends_the_sweep_with_its_table(lost, corpus, tmp_path):
    asked = lost(9)
    with pytest.raises(ConnectionError, match=r"its raylet ended\); what is finished is kept: run again to continue"):
        runner.run(many(corpus, 6), Folder(tmp_path), "run", Settings())
    assert asked == [6, 5, 4, 3]
    assert (tmp_path / "run" / "results.parquet").exists()


def test_a_cluster_of_somebody_else_is_not_started_again(lost, corpus, tmp_path):
    asked = lost(9)
    with pytest.raises(ConnectionError, match="run again to continue"):
        runner.run(many(corpus, 2), Folder(tmp_path), "run", Settings(address="10.0.0.1:6379"))
    assert len(asked) == 1
