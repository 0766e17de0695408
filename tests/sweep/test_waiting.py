"""What people are told while machines are missing, and which slots are started again."""

from __future__ import annotations

from types import SimpleNamespace

from raysparse.sweep.ray.fleet import SAY_AGAIN, USUAL_START, Fleet, Waiting
from tests.sweep.test_broker import Clock


def test_missing_machines_are_said_once_in_a_while_and_their_coming_once():
    clock = Clock()
    waiting = Waiting("2 workers each", clock)
    assert waiting.lines(asked=4, have=3) == [], "they may be starting"
    clock.now += USUAL_START
    [line] = waiting.lines(asked=4, have=3)
    assert line.startswith("waiting for machines: asked for 4 slots (2 workers each), have 3, since ")
    assert waiting.lines(asked=4, have=2) == []
    clock.now += SAY_AGAIN
    assert len(waiting.lines(asked=4, have=2)) == 1
    assert waiting.lines(asked=4, have=4) == ["all 4 slots have their workers"]
    assert waiting.lines(asked=4, have=4) == []


def test_slots_that_come_soon_are_not_spoken_of():
    clock = Clock()
    waiting = Waiting("1 workers each", clock)
    assert waiting.lines(asked=2, have=0) == []
    clock.now += USUAL_START / 2
    assert waiting.lines(asked=2, have=2) == []


class Idle:
    """A slot as the fleet sees it."""

    def __init__(self, name, *, ended=False, broke=False, started_at=0.0):
        self.slot, self.ended, self.broke, self.started_at = name, ended, broke, started_at

    def end(self):
        self.ended = True


def fleet_of(*slots):
    made = Fleet.__new__(Fleet)
    made.slots, made._lines, made._waiting = list(slots), [], SimpleNamespace(lines=lambda **_: [])
    made._is_on_a_cluster = True
    made._start = lambda name: Idle(name, started_at=1e12)
    return made


def snapshot_of(*, running=0, wanted=0, present=()):
    return SimpleNamespace(running=[None] * running, wanted=wanted, present=present)


def alive(fleet):
    return [slot.slot for slot in fleet.slots if not slot.ended]


def test_a_slot_that_went_home_is_started_again_when_a_trial_waits_for_it():
    fleet = fleet_of(Idle("a"), Idle("b", ended=True), Idle("c", ended=True, broke=True))
    fleet.tend(snapshot_of(running=1, present=("a",)))
    assert alive(fleet) == ["a"], "nothing waits"
    fleet.tend(snapshot_of(running=1, wanted=1, present=("a",)))
    assert alive(fleet) == ["a", "b"]
    fleet.tend(snapshot_of(running=1, wanted=2, present=("a",)))
    assert alive(fleet) == ["a", "b"], "a broken one stays so"


def test_a_slot_whose_machine_does_not_come_back_is_not_counted_on():
    fleet = fleet_of(Idle("a"), Idle("gone"), Idle("home", ended=True))
    fleet.tend(snapshot_of(running=1, wanted=1, present=("a",)))
    assert alive(fleet) == ["a", "gone", "home"]


def test_a_slot_that_is_starting_is_counted_on():
    fleet = fleet_of(Idle("a"), Idle("new", started_at=1e12), Idle("home", ended=True))
    fleet.tend(snapshot_of(running=1, wanted=1, present=("a",)))
    assert alive(fleet) == ["a", "new"]


def test_a_slot_that_still_waits_for_machines_at_the_end_is_ended():
    fleet = fleet_of(Idle("home", ended=True), Idle("waits"))
    fleet.join(0.0)
    assert alive(fleet) == []
