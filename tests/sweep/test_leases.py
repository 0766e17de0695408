"""Leases: a holder that is not heard of loses its trial to another slot, and is refused when it
comes back late; nobody is charged for waiting.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.files import Folder
from raysparse.results import Outcome, Results
from raysparse.run_folder import Reached, RunFolder
from raysparse.sweep.books import Job, State
from raysparse.sweep.broker import MAX_DEATHS, Broker
from raysparse.sweep.budget import Budget, load_work
from raysparse.sweep.lease import Fence, FencedFolder, Lease, LeaseLostError, NoLease
from tests.sweep.plans import small_plan
from tests.sweep.test_broker import Clock, broker_for, completed, report, rows

TTL = 30.0


def test_a_lease_that_is_not_heard_of_goes_to_whoever_asks_and_its_holder_is_refused(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    late = broker.take("one")
    broker.progress(late.claim, report(late, 5))
    pass_time(broker, clock, TTL + 1)
    lease = broker.take("two")
    assert lease.spec == late.spec
    assert lease.epoch > late.epoch
    for says in (
        lambda: broker.beat(late.claim),
        lambda: broker.progress(late.claim, report(late, 9)),
        lambda: broker.publish(late.claim, {"step": 9}),
        lambda: broker.finish(late.claim, completed(late.spec)),
    ):
        with pytest.raises(
            LeaseLostError, match=r"lease 1 of trial \w+ ran out; the trial is running under lease 2 of two"
        ):
            says()
    assert rows(broker) == {}
    broker.finish(lease.claim, completed(lease.spec))
    with pytest.raises(LeaseLostError):
        broker.finish(late.claim, Outcome(status="failed", reason="too late"))
    assert rows(broker)[lease.spec.trial_id]["status"] == "completed"


def pass_time(broker, clock, seconds):
    """Time in which others speak to the broker, as the driver does twice a second."""
    for _ in range(int(seconds)):
        clock.now += 1.0
        broker._awake()
    clock.now += seconds % 1


def test_a_holder_that_beats_keeps_its_trial_however_long_a_step_takes(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    lease = broker.take("one")
    for _ in range(20):
        pass_time(broker, clock, TTL / 2)
        broker.beat(lease.claim)
        assert broker.take("two").spec != lease.spec
    assert broker.progress(lease.claim, report(lease, 5)) == ""


def test_a_broker_that_was_stopped_blames_nobody(tmp_path):
    """It heard of nobody, because it did not listen."""
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    lease = broker.take("one")
    clock.now += 10 * TTL
    assert broker.take("two").spec != lease.spec
    assert broker.progress(lease.claim, report(lease, 5)) == ""


def test_waiting_is_charged_to_nobody(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, budget=Budget(unit="device_seconds", total=1e6), clock=clock)
    lease = broker.take("one")
    clock.now += 4.0
    broker.progress(lease.claim, report(lease, 5))
    pass_time(broker, clock, 500.0)  # its machine is gone, and nobody else is there
    again = broker.take("one", group="another", preempted=True)
    clock.now += 2.0
    broker.finish(again.claim, completed(again.spec))
    assert load_work(broker.run_folder)[lease.spec.trial_id].seconds == pytest.approx(4.0 + 2.0)


def test_a_group_that_was_followed_by_another_does_not_speak_for_its_slot(tmp_path):
    """It was stopped, its slot started again without it, and now it asks for work."""
    broker = broker_for(tmp_path)
    broker.take("slot", group="first")
    lease = broker.take("slot", group="second")
    assert broker.take("slot", group="first") is NoLease.CLOSED
    assert broker.progress(lease.claim, report(lease, 5)) == "", "the second group was not disturbed"


def test_a_group_that_lost_its_lease_and_lives_has_not_died(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    for _ in range(MAX_DEATHS + 2):
        assert broker.take("slot", group="same").spec == broker.plan.specs[0]
    assert broker.entries[broker.plan.specs[0].trial_id].deaths == 0


def test_a_trial_is_submitted_twice_when_the_first_answer_was_lost(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    for spec in broker.plan.specs:
        broker.submit(spec)
    assert broker.entries[lease.spec.trial_id].state is State.RUNNING
    assert len(broker.entries) == len(broker.plan.specs)


def test_the_echo_of_another_workers_end_is_no_failure(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot", group="a")
    broker.finish(lease.claim, Outcome(status="preempted", reason="another worker is gone: Connection closed by peer"))
    assert rows(broker) == {}
    assert broker.take("slot", group="b").spec == lease.spec


def test_where_an_error_and_the_loss_of_a_machine_coincide_the_loss_is_the_cause(tmp_path):
    """The error comes first, the news of the machine with the next group of the slot."""
    broker = broker_for(tmp_path)
    for n in range(2 * MAX_DEATHS):
        lease = broker.take("slot", group=f"{n}", preempted=n > 0)
        assert lease.spec == broker.plan.specs[0]
        broker.finish(lease.claim, Outcome(status="preempted", reason="another worker is gone"))
    assert rows(broker) == {}


def test_a_slot_without_work_goes_home_while_others_work_and_is_wanted_again(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock, patience=20.0)
    leases = [broker.take(f"slot-{n}") for n in range(len(broker.plan.specs))]
    assert broker.take("idle") is NoLease.WAIT
    for _ in range(19):
        clock.now += 1.0
        for lease in leases:
            broker.beat(lease.claim)
        assert broker.take("idle") is NoLease.WAIT
    clock.now += 1.0
    assert broker.take("idle") is NoLease.CLOSED
    assert (broker.wanted, "idle" in broker.present) == (0, False)
    pass_time(broker, clock, TTL + 1)
    assert broker.wanted == len(leases), "those who held them are not heard of any more"


def test_a_slot_does_not_go_home_when_nobody_works(tmp_path):
    """Whoever is to say what comes next may take its time."""
    clock = Clock()
    plan = small_plan("text")
    broker = Broker(Job(plan, RunFolder.named(Folder(tmp_path), "run"), plan.specs), clock=clock, patience=20.0)
    for _ in range(100):
        clock.now += 1.0
        assert broker.take("slot") is NoLease.WAIT


def test_a_trial_that_the_budget_cannot_pay_now_is_wanted_by_nobody(tmp_path):
    plan = small_plan("text")
    broker = broker_for(tmp_path, budget=Budget(total=1.2 * plan.price(plan.specs[0])))
    lease = broker.take("one")
    assert broker.wanted == len(plan.specs) - 1
    assert broker.take("two") is NoLease.WAIT
    assert broker.wanted == 0
    broker.progress(lease.claim, report(lease, 1))
    broker.finish(lease.claim, Outcome(status="failed", reason="boom"))
    assert broker.wanted > 0, "what it did not use can be spent now"


class CutOff:
    """A broker behind a line that can be cut."""

    def __init__(self, broker):
        self.broker, self.is_cut = broker, False

    def _through(self, call, *args):
        if self.is_cut:
            raise LeaseLostError("the broker did not answer")
        return call(*args)

    def beat(self, claim):
        return self._through(self.broker.beat, claim)

    def progress(self, claim, told):
        return self._through(self.broker.progress, claim, told)

    def publish(self, claim, about):
        return self._through(self.broker.publish, claim, about)

    def finish(self, claim, outcome):
        return self._through(self.broker.finish, claim, outcome)


def test_a_holder_that_was_stopped_goes_on_where_nobody_took_its_trial(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    lease = broker.take("one")
    fence = Fence(broker, lease, clock=clock)
    folder = FencedFolder(lease.folder, fence)
    pass_time(broker, clock, 3 * TTL)
    folder.write("metrics.jsonl", b"late, but nobody minds")
    assert not fence.is_lost


def test_a_holder_that_was_stopped_writes_nothing_where_somebody_did(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    late = broker.take("one")
    behind = FencedFolder(late.folder, Fence(broker, late, clock=clock))
    behind.write_json("checkpoint/latest.json", {"file": "step-1.pt", "step": 1})
    pass_time(broker, clock, TTL + 1)
    lease = broker.take("two")
    folder = FencedFolder(lease.folder, Fence(broker, lease, clock=clock))
    folder.write_json("checkpoint/latest.json", {"file": "step-7.pt", "step": 7})
    before = snapshot_of(late.folder)
    for write in (
        lambda: behind.write("metrics.jsonl", b"late"),
        lambda: behind.write_json("checkpoint/latest.json", {"file": "step-2.pt", "step": 2}),
        lambda: behind.delete("checkpoint/latest.json"),
        lambda: behind.delete("checkpoint/step-7.pt"),
    ):
        with pytest.raises(LeaseLostError):
            write()
    assert snapshot_of(late.folder) == before
    assert broker.run_folder.reached(lease.spec) == Reached(step=7, start=7, epoch=lease.epoch)


def snapshot_of(folder):
    return {path: path.read_bytes() for path in folder.local_path.rglob("*") if path.is_file()}


def test_an_epoch_is_never_used_again_by_a_later_driver(tmp_path):
    """The pointer remembers it: a worker of the driver before cannot be taken for one of this."""
    broker = broker_for(tmp_path)
    broker.take("one", group="a")
    lease = broker.take("one", group="b")
    broker.publish(lease.claim, {"file": "step-3.pt", "step": 3})
    assert broker_for(tmp_path).take("one").epoch > lease.epoch


@dataclass
class Holder:
    """A process that holds a lease or believes so; it may be stopped, or cut off."""

    slot: str
    lease: Lease
    fence: Fence
    line: CutOff
    is_stopped: bool = False


class Scene:
    """Slots, their processes, and those that were left behind, under one clock."""

    def __init__(self, folder, share):
        plan = small_plan("text")
        self.limit = share * sum(map(plan.price, plan.specs))
        self.clock = Clock()
        self.broker = broker_for(folder, budget=Budget(total=self.limit), clock=self.clock, patience=50.0)
        self.holders: list[Holder] = []
        self.groups = dict.fromkeys(("one", "two", "three"), 0)

    def of(self, slot):
        """The youngest process of a slot that believes to hold something."""
        return next((holder for holder in reversed(self.holders) if holder.slot == slot), None)

    def act(self, slot, event):
        holder = self.of(slot)
        if event == "time":
            pass_time(self.broker, self.clock, 11.0)
        elif event == "take" and (holder is None or holder.is_stopped or holder.line.is_cut):
            self.groups[slot] += holder is not None  # a new group, started without the old one
            line = CutOff(self.broker)
            lease = self.broker.take(slot, group=str(self.groups[slot]), preempted=True)
            if isinstance(lease, Lease):
                self.holders.append(Holder(slot, lease, Fence(line, lease, clock=self.clock), line))
        elif holder is not None:
            self.tell(holder, event)

    def tell(self, holder, event):
        if event == "stop":
            holder.is_stopped = True
        elif event == "continue":
            for other in self.holders:
                other.is_stopped = False
        elif event == "cut":
            holder.line.is_cut = not holder.line.is_cut
        for one in [other for other in self.holders if not other.is_stopped]:
            self.speak(one, event)

    def speak(self, holder, event):
        spec = holder.lease.spec
        try:
            if event == "report":
                holder.fence.tell(report(holder.lease, min(spec.steps, self.broker.entries[spec.trial_id].step + 3)))
            elif event == "beat":
                holder.fence.beat()
            elif event == "finish" and holder.slot == self.holders[-1].slot:
                holder.line.finish(holder.lease.claim, completed(spec))
                self.holders.remove(holder)
        except LeaseLostError:
            self.holders.remove(holder)

    def check(self):
        broker = self.broker
        assert broker.ledger.spent + broker.ledger.reserved <= self.limit * (1 + 1e-12)
        sure = [h.lease.spec.trial_id for h in self.holders if h.fence._until > self.clock.now and not h.fence.is_lost]
        assert len(sure) == len(set(sure)), "two processes believe that they hold a trial, and may write"
        held = list(broker.slots.held.values())
        assert len(held) == len(set(held))
        states = [entry.state for entry in broker.entries.values()]
        assert states.count(State.RUNNING) == len(held)
        assert states.count(State.ENDED) == len(broker.books.rows)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", "three"]),
        st.sampled_from(["take", "take", "time", "report", "beat", "finish", "stop", "continue", "cut"]),
    ),
    max_size=80,
)


@settings(max_examples=60)
@given(events=EVENTS, share=st.floats(0.4, 1.5))
def test_no_interleaving_has_two_holders_of_a_trial_or_loses_one(events, share, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    scene = Scene(folder, share)
    for slot, event in events:
        scene.act(slot, event)
        scene.check()
    broker, clock = scene.broker, scene.clock
    pass_time(broker, clock, 2 * TTL)  # whoever is left is stopped for ever; one slot is not
    while isinstance(lease := broker.take("last"), Lease):
        clock.now += 1.0
        broker.finish(lease.claim, completed(lease.spec))
        scene.check()
    assert {entry.state for entry in broker.entries.values()} <= {State.ENDED, State.UNAFFORDABLE}
    before = Results(broker.run_folder).rows()
    for holder in scene.holders:
        with contextlib.suppress(LeaseLostError):
            broker.finish(holder.lease.claim, Outcome(status="failed", reason="late"))
    assert Results(broker.run_folder).rows() == before
    found = [row["trial_id"] for row in before]
    assert sorted(found) == sorted(key for key, entry in broker.entries.items() if entry.state is State.ENDED)
    unaffordable = [entry.spec for entry in broker.entries.values() if entry.state is State.UNAFFORDABLE]
    assert all(broker.plan.price(spec) > broker.ledger.remaining for spec in unaffordable)
