"""What `raysparse status` says of a folder whose times are known: rate, time left, who was heard of
when, and nothing that the folder cannot tell.
"""

from __future__ import annotations

import json
import os
import time

import pytest
from rich.console import Console

from raysparse.console.status import status_table
from raysparse.placement import Placement
from raysparse.results import Outcome, Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.sweep.budget import Budget, Work, save_work
from raysparse.sweep.overview import WINDOW, overview
from raysparse.sweep.planners.adaptive import Adaptive
from raysparse.sweep.planners.recipe import Recipe
from raysparse.units import duration
from tests.sweep.plans import small_plan

LOSSES = {"completed": 2.0, "diverged": None, "failed": None}


class Scene:
    """A run folder of four trials, written by hand."""

    def __init__(self, storage, **budget):
        self.plan = small_plan("text", budget=Budget(**budget))
        self.folder, self.now = RunFolder(storage), time.time()
        self.plan.save(self.folder)

    def at(self, path, ago):
        os.utime(self.folder.local_path / path, (self.now - ago, self.now - ago))

    def ended(self, n, ago, status="completed"):
        spec = self.plan.specs[n]
        reason = "" if status == "completed" else "as it happens"
        outcome = Outcome(status=status, reason=reason, validation_loss=LOSSES[status], steps=spec.steps)
        Results(self.folder).record(make_row(spec, Placement(), outcome))
        self.at(f"journal/{spec.trial_id}.json", ago)

    def trains(self, n, ago, step):
        spec = self.plan.specs[n]
        lines = [
            {"step": 1, "loss": 5.0, "validation_loss": 4.0},
            {"step": step, "loss": 3.0, "tokens_per_second": 2e3},
        ]
        self.folder.trial(spec.trial_id).write("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())
        self.at(f"trials/{spec.trial_id}/metrics.jsonl", ago)

    def spent(self, ago, **steps):
        save_work(self.folder, {self.plan.specs[int(n[1:])].trial_id: Work(s, 1.0) for n, s in steps.items()})
        self.at("ledger.json", ago)

    @property
    def printed(self):
        console = Console(width=200, highlight=False)
        with console.capture() as captured:
            console.print(status_table(self.folder, lambda: self.now))
        return captured.get()

    @property
    def overview(self):
        return overview(self.folder, lambda: self.now)


def test_the_rate_is_that_of_the_rows_and_the_rest_takes_what_it_takes_at_that_pace(tmp_path):
    scene = Scene(tmp_path)
    scene.ended(0, ago=300)
    scene.ended(1, ago=200)
    scene.trains(2, ago=7, step=8)
    seconds = scene.plan.seconds
    of_rest = seconds(scene.plan.specs[2]) * (1 - 8 / scene.plan.specs[2].steps) + seconds(scene.plan.specs[3])
    pace = scene.overview.pace
    assert (pace.rows, pace.seconds) == (1, pytest.approx(100, abs=0.1))
    assert pace.to_go == pytest.approx(100 * of_rest / seconds(scene.plan.specs[1]), rel=1e-3)
    assert f"36 trials an hour, by the last 1m 40s: about {duration(pace.to_go)} to go" in scene.printed


def test_an_earlier_session_takes_no_part_in_the_rate(tmp_path):
    scene = Scene(tmp_path)
    scene.ended(0, ago=10 * WINDOW)
    scene.ended(1, ago=60)
    assert scene.overview.pace is None
    scene.ended(2, ago=30)
    assert scene.overview.pace.rows == 1


def test_a_folder_that_was_copied_without_its_times_has_no_rate(tmp_path):
    scene = Scene(tmp_path)
    for n in range(3):
        scene.ended(n, ago=10 - 0.01 * n)
    assert scene.overview.pace is None
    assert "an hour" not in scene.printed


def test_what_the_budget_cannot_pay_takes_no_time(tmp_path):
    scene = Scene(tmp_path, total=1.0)
    scene.ended(0, ago=300)
    scene.ended(1, ago=200)
    assert scene.overview.pace.to_go == 0


def test_a_sweep_whose_budget_is_spent_says_what_would_add_trials(tmp_path):
    scene = Scene(tmp_path, total=1.0)
    scene.spent(ago=3 * 3600, _0=4)
    scene.ended(0, ago=3 * 3600)
    assert "the budget is spent; raise it (--max-flops) to add 3 trials" in scene.printed
    assert "run it again" not in scene.printed
    assert "to go" not in scene.printed
    richer = Scene(tmp_path, total=1e15)
    assert "run it again to continue" in richer.printed, "a killed sweep that can pay for more goes on"


@pytest.mark.parametrize("asked", [0, 1])
def test_a_planner_that_has_nothing_more_to_ask_has_ended(asked, tmp_path, monkeypatch):
    scene = Scene(tmp_path, total=1e15)
    first, other = scene.plan.specs[0], scene.plan.specs[1]
    planner = Adaptive(recipe=Recipe(vocab_size=257), start=(first,), compute=1e9, unique_tokens=4_097)
    monkeypatch.setattr(Adaptive, "ask", lambda *_: [other][:asked])
    scene.folder.delete("plan.json")
    scene.plan.replace(specs=(first,), planner=planner).save(scene.folder)
    scene.spent(ago=3 * 3600, _0=4)
    scene.ended(0, ago=3 * 3600)
    has_ended = "the sweep has ended: its planner has nothing more to ask" in scene.printed
    assert (has_ended, "run it again to continue" in scene.printed) == (not asked, bool(asked))


def test_who_trains_is_shown_with_the_age_of_the_last_word(tmp_path):
    scene = Scene(tmp_path)
    scene.ended(0, ago=50, status="failed")
    scene.trains(0, ago=3, step=4)  # again
    scene.ended(1, ago=20, status="failed")
    scene.trains(1, ago=21, step=4)
    scene.trains(2, ago=200, step=9)
    scene.spent(ago=4, _0=4, _2=9)
    now = scene.overview
    ids = [scene.plan.specs[n].trial_id for n in (0, 2)]
    assert [one.trial.trial_id for one in now.running] == ids, "heard of last first; one that failed since is not"
    assert [round(one.silent) for one in now.running] == [3, 200]
    assert (now.finished, now.begun) == (0, 3)
    lines = scene.printed.splitlines()
    assert "0 of 4 trials finished, 3 begun, 1 not begun" in lines[0]
    assert "  its driver wrote 4s ago" in lines
    [line] = [line for line in lines if " 3s ago" in line]
    assert line.split()[-6:] == [f"4/{scene.plan.specs[0].steps}", "3.000", "4.000", "2k", "3s", "ago"]
    assert "as it happens" in lines[-1]


def test_a_driver_that_is_silent_for_long_is_told_how_to_wake(tmp_path):
    scene = Scene(tmp_path)
    scene.spent(ago=3 * 3600, _0=4)
    assert "its driver wrote 3h 00m ago: if it does not run any more, run it again to continue" in scene.printed
    for n in range(4):
        scene.ended(n, ago=5 - n, status="completed")
    assert "its driver" not in scene.printed, "nothing is left to do"
