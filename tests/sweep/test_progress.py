"""The live view: one line every so often without a terminal, all that is asked for in it, and a
time left that means something.
"""

import io

from rich.console import Console

from raysparse.console.progress import PACE_AFTER, PLAIN_EVERY, Display
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.budget import Budget
from raysparse.sweep.planners.adaptive import Adaptive
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.snapshot import snapshot
from raysparse.units import amount, count, duration
from tests.sweep.plans import small_plan
from tests.sweep.test_broker import Clock, completed, report


class Sweep:
    """A broker and a display that share a clock."""

    def __init__(self, folder, *, terminal: bool):

        self.plan, self.clock = small_plan("text"), Clock()
        self.broker = Broker(Job(self.plan, RunFolder(folder), self.plan.specs), clock=self.clock)
        self.broker.submit(self.plan.specs[0])
        self.console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
        self.display = Display(console=self.console, clock=self.clock)
        self.display.begin(self.plan, [])

    @property
    def printed(self) -> str:
        return self.console.file.getvalue()


def test_without_a_terminal_a_line_comes_every_fifteen_seconds(tmp_path):
    sweep = Sweep(tmp_path, terminal=False)
    with sweep.display:
        for _ in range(40):
            sweep.clock.now += 1.0
            sweep.display.show(snapshot(sweep.broker))
    lines = sweep.printed.splitlines()
    assert len(lines) == int(40 / PLAIN_EVERY)
    assert "0/4 done, 0 running, 4 pending; 0.00e00 FLOPs spent" in lines[0], (
        "trials that were not submitted yet are pending too"
    )


def test_the_time_left_follows_the_pace_of_the_training_not_of_the_start(tmp_path):
    sweep = Sweep(tmp_path, terminal=False)
    sweep.clock.now += 500.0  # a slow start
    lease = sweep.broker.take("slot")
    sweep.display.show(snapshot(sweep.broker))
    assert "(planned)" in sweep.printed
    sweep.clock.now += PACE_AFTER
    sweep.broker.progress(lease.claim, report(lease, lease.spec.steps // 2))
    now = snapshot(sweep.broker)
    sweep.display.show(now)
    expected = PACE_AFTER * now.seconds_left / now.seconds_done
    assert f"about {duration(expected)}" in sweep.printed.splitlines()[-1]


def test_what_a_running_trial_has_done_is_spent(tmp_path):
    sweep = Sweep(tmp_path, terminal=False)
    lease = sweep.broker.take("slot")
    sweep.broker.progress(lease.claim, report(lease, lease.spec.steps // 4))
    price = sweep.plan.price(lease.spec)
    assert f"; {amount(price / 4)} FLOPs spent" in sweep.display._line(snapshot(sweep.broker))
    sweep.broker.finish(lease.claim, completed(lease.spec))
    assert f"; {amount(price)} FLOPs spent" in sweep.display._line(snapshot(sweep.broker))


def test_a_terminal_shows_what_runs_and_the_best_loss_by_size_and_budget(tmp_path):
    sweep = Sweep(tmp_path, terminal=True)
    first = sweep.broker.take("slot")
    sweep.broker.finish(first.claim, completed(first.spec))
    sweep.broker.submit(sweep.plan.specs[1])
    second = sweep.broker.take("slot")
    sweep.broker.progress(second.claim, report(second, 3))
    with sweep.display:
        sweep.display.show(snapshot(sweep.broker))
        sweep.display._live.refresh()
    assert "1/4 done, 1 running, 2 pending" in sweep.printed
    assert "laptop-xs U=4,097: 2.000 (d=1, x1)" in sweep.printed
    assert "3/32" in sweep.printed


def test_numbers_are_said_as_people_say_them():
    assert [duration(s) for s in (9, 65, 3725)] == ["9s", "1m 05s", "1h 02m"]
    assert [count(n) for n in (7, 1536, 3.2e6, 2e9)] == ["7", "1.54k", "3.2M", "2B"]


def test_a_planner_with_a_budget_is_shown_by_what_it_has_left(tmp_path):
    """Nobody knows how many trials it will propose; what it may spend is known."""
    scene = Sweep(tmp_path, terminal=False)
    first = scene.plan.specs[0]
    planner = Adaptive(recipe=Recipe(vocab_size=257), start=(first,), compute=1e9, unique_tokens=4_097)
    total = 10 * scene.plan.price(first)
    scene.display.begin(scene.plan.replace(planner=planner, budget=Budget(total=total)), [])
    line = scene.display._line(snapshot(scene.broker))
    assert "0 done, " in line
    assert f"{amount(total)} to go" in line
