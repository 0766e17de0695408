"""What the broker makes of machines, in this process and with machines that are only named."""

from __future__ import annotations

import math

import pytest

from raysparse.files import Folder
from raysparse.results import Outcome
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.lease import SECONDS, Lease, NoLease
from raysparse.sweep.ray import broker_actor
from tests.sweep.plans import small_plan
from tests.sweep.test_broker import rows

ECHO = Outcome(status="preempted", reason="another worker is gone: Connection closed by peer")


class Machines:
    def __init__(self):
        self.living, self.leaving = {"a", "b", "c"}, {}


@pytest.fixture
def machines(monkeypatch):
    made = Machines()
    monkeypatch.setattr(broker_actor, "living_nodes", lambda: made.living)
    monkeypatch.setattr(broker_actor.cluster_state, "get_draining_nodes", lambda: made.leaving)
    monkeypatch.setattr(broker_actor, "LOOK_EVERY", 0.0)
    return made


@pytest.fixture
def broker(tmp_path):
    plan = small_plan("text", workers=3)
    job = Job(plan, RunFolder.named(Folder(tmp_path), "run"), plan.specs)
    made = broker_actor.BrokerActor(job, lease_seconds=SECONDS, patience=math.inf)
    for spec in plan.specs:
        made.submit(spec)
    return made


def deaths(broker, lease):
    return broker.entries[lease.spec.trial_id].deaths


def test_an_error_when_a_machine_is_gone_is_not_held_against_the_trial(broker, machines):
    lease = broker.serve("slot", "first", ["a", "b"])
    machines.living = {"a"}
    broker.finish(lease.claim, ECHO)
    assert (deaths(broker, lease), rows(broker)) == (0, {})


def test_nor_is_one_that_comes_before_the_news_of_the_machine(broker, machines):
    lease = broker.serve("slot", "first", ["a", "b"])
    broker.finish(lease.claim, ECHO)
    assert deaths(broker, lease) == 1
    machines.living = {"a", "c"}
    assert broker.serve("slot", "second", ["a", "c"]).spec == lease.spec
    assert deaths(broker, lease) == 0


def test_where_all_machines_live_a_worker_has_died(broker, machines):
    lease = broker.serve("slot", "first", ["a", "b"])
    broker.finish(lease.claim, ECHO)
    broker.serve("slot", "second", ["a", "b"])
    assert deaths(broker, lease) == 1


def test_the_trial_of_a_machine_that_may_be_cut_off_waits_for_the_end_of_its_lease(broker, machines):
    lease = broker.serve("slot", "first", ["a"])
    machines.living = {"b"}
    other = broker.serve("slot", "second", ["b"])
    assert other.spec != lease.spec
    assert deaths(broker, lease) == 0


def test_a_group_of_another_size_trains_at_once_and_says_its_size(broker, machines):
    """Ray has ended the workers that were too few; the global batch is the trial's own."""
    lease = broker.serve("slot", "first", ["a", "b"])
    assert lease.placement.workers == 2
    again = broker.serve("slot", "second", ["a", "b", "c"])
    assert (again.spec, again.placement.workers, deaths(broker, lease)) == (lease.spec, 3, 0)


def test_a_notice_comes_with_the_beat_and_no_trial_begins_there(broker, machines):
    lease = broker.serve("one", "group", ["a", "b"])
    assert isinstance(lease, Lease)
    assert broker.beat(lease.claim) is False
    machines.leaving = {"b": 0}
    assert broker.beat(lease.claim) is True
    assert broker.serve("two", "group", ["b", "c"]) is NoLease.WAIT
    assert isinstance(broker.serve("three", "group", ["c"]), Lease)
