"""The rules of a sweep, without a process: who is served, what each end means, what it costs, and
that rows are written once.
"""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.files import Folder
from raysparse.results import Evaluation, Outcome, Results
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job, State, half_micro_batch
from raysparse.sweep.broker import MAX_DEATHS, MAX_UNWRITTEN, Broker
from raysparse.sweep.budget import Budget, load_work
from raysparse.sweep.lease import Lease, NoLease
from raysparse.sweep.snapshot import snapshot
from tests.sweep.plans import small_plan


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def broker_for(folder, *, budget=None, clock=None, patience=math.inf) -> Broker:
    plan = small_plan("text", budget=budget)
    job = Job(plan, RunFolder.named(Folder(folder), "run"), plan.specs)
    broker = Broker(job, clock=clock or Clock(), patience=patience)
    for spec in plan.specs:
        broker.submit(spec)
    return broker


def completed(spec) -> Outcome:
    evaluations = (Evaluation(spec.steps, spec.tokens, 2.0),)
    return Outcome(
        status="completed",
        validation_loss=2.0,
        evaluations=evaluations,
        steps=spec.steps,
        tokens=spec.tokens,
        seconds=1.0,
    )


def report(lease: Lease, step: int) -> dict:
    return {"step": step, "steps": lease.spec.steps, "tokens": step * lease.spec.tokens_per_step, "loss": 3.0}


def rows(broker: Broker) -> dict[str, dict]:
    return {row["trial_id"]: row for row in broker.results.rows()}


def test_trials_are_served_in_the_order_of_their_submission_and_then_slots_go_home(tmp_path):
    broker = broker_for(tmp_path)
    served = []
    while isinstance(lease := broker.take("slot"), Lease):
        broker.finish(lease.claim, completed(lease.spec))
        served.append(lease.spec.trial_id)
    assert served == list(broker.plan.trial_ids)
    assert lease is NoLease.WAIT, "more trials may come until the broker is closed"
    broker.close()
    assert broker.take("slot") is NoLease.CLOSED
    assert sorted(rows(broker)) == sorted(served)


def test_a_slot_that_died_is_served_the_same_trial_again(tmp_path):
    broker = broker_for(tmp_path)
    first, other = broker.take("one"), broker.take("two")
    broker.progress(first.claim, report(first, 5))
    again = broker.take("one", group="started again")
    assert again.spec == first.spec != other.spec
    assert rows(broker) == {}, "a death is no result"
    broker.finish(again.claim, completed(again.spec))
    assert rows(broker)[first.spec.trial_id]["status"] == "completed"
    work = load_work(broker.run_folder)[first.spec.trial_id]
    assert work.steps == first.spec.steps + 5, "the steps of the attempt that died were spent too"


def test_steps_that_a_killed_broker_did_not_write_down_are_paid_for_when_their_trial_continues(tmp_path):
    killed = broker_for(tmp_path)
    lease = killed.take("slot")
    killed.progress(lease.claim, report(lease, 3))
    broker = broker_for(tmp_path)  # has read the ledger, and then the other one goes on for a moment
    killed.publish(lease.claim, {"step": 7, "file": "step-7.pt"})
    again = broker.take("slot")
    assert broker.ledger.spent == pytest.approx(broker.plan.price(again.spec) * 7 / again.spec.steps)
    broker.finish(again.claim, completed(again.spec))
    assert load_work(broker.run_folder)[again.spec.trial_id].steps == again.spec.steps


def test_a_trial_that_kept_its_weights_alone_when_it_ended_early_is_reserved_and_charged_from_its_start(tmp_path):
    killed = broker_for(tmp_path)
    lease = killed.take("slot")
    killed.publish(lease.claim, {"step": 7, "file": "weights-7.pt", "keeps": "weights"})  # and then no row
    broker = broker_for(tmp_path)
    again = broker.take("slot")
    price, steps = broker.plan.price(again.spec), again.spec.steps
    assert (broker.ledger.spent, broker.ledger.reserved) == pytest.approx((price * 7 / steps, price))
    broker.progress(again.claim, report(again, 3))
    assert broker.entries[again.spec.trial_id].attempt.steps == 3
    broker.finish(again.claim, completed(again.spec))
    assert load_work(broker.run_folder)[again.spec.trial_id].steps == 7 + steps


def test_a_trial_that_was_trained_to_its_end_is_not_paid_for_twice(tmp_path):
    killed = broker_for(tmp_path)
    lease = killed.take("slot")
    about = {"step": lease.spec.steps, "file": "weights.pt", "keeps": "weights"}
    killed.publish(lease.claim, about)
    broker = broker_for(tmp_path)
    again = broker.take("slot")
    assert broker.ledger.reserved == 0
    broker.finish(again.claim, completed(again.spec))
    assert load_work(broker.run_folder)[again.spec.trial_id].steps == again.spec.steps


def test_a_trial_that_kills_its_workers_fails_in_the_end_and_lets_the_others_run(tmp_path):
    broker = broker_for(tmp_path)
    leases = [broker.take("slot", group=f"{n}") for n in range(MAX_DEATHS + 1)]
    assert [lease.spec for lease in leases[:-1]] == [leases[0].spec] * MAX_DEATHS
    assert leases[-1].spec != leases[0].spec
    assert [lease.placement.micro_batch for lease in leases] == [0, 0, 2, 0], "the last try takes less memory"
    row = rows(broker)[leases[0].spec.trial_id]
    assert row["status"] == "failed"
    assert f"died {MAX_DEATHS} times" in row["reason"]


def test_a_machine_that_went_away_is_not_held_against_the_trial(tmp_path):
    clock = Clock()
    broker, leases = broker_for(tmp_path, clock=clock), []
    for n in range(MAX_DEATHS + 3):
        broker.lost("slot", "preempted")
        clock.now += 31.0  # when nobody who is cut off can believe any more that it is his
        leases.append(broker.take("slot", group=f"{n}", preempted=True))
    assert len({lease.spec for lease in leases}) == 1
    assert rows(broker) == {}


def test_out_of_memory_halves_the_micro_batch_until_it_is_one(tmp_path):
    broker = broker_for(tmp_path)
    first = broker.take("slot")
    lease, tried = first, []
    while lease.spec == first.spec:  # the same trial, hence the same global batch
        tried.append(lease.placement.micro_batch)
        broker.finish(lease.claim, Outcome(status="out_of_memory", reason="no memory"))
        lease = broker.take("slot")
    assert tried == [0, 2, 1], "of a batch of four"
    assert rows(broker)[first.spec.trial_id]["status"] == "out_of_memory"
    assert lease.placement.micro_batch == 0, "the next trial starts with its own"


def test_halving_starts_from_what_the_worker_chose(tmp_path):
    """A worker that chose its micro-batch by its card says which it was."""
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    broken = Outcome(status="out_of_memory", reason="no memory", micro_batch=2, recompute="layer")
    broker.finish(lease.claim, broken)
    assert broker.take("slot").placement.micro_batch == 1


def test_a_micro_batch_of_one_cannot_be_halved(tmp_path):
    plan = small_plan("text", workers=4)
    assert half_micro_batch(plan.specs[0], plan.placement) is None


def test_when_several_ranks_fail_the_first_one_tells_the_cause(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    broker.finish(lease.claim, Outcome(status="failed", reason="the cause"))
    broker.finish(lease.claim, Outcome(status="failed", reason="connection closed by peer"))
    assert rows(broker)[lease.spec.trial_id]["reason"] == "the cause"


def test_an_exception_costs_what_was_trained_before_it(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    broker.progress(lease.claim, report(lease, 7))
    broker.finish(lease.claim, Outcome(status="failed", reason="boom"))
    row = rows(broker)[lease.spec.trial_id]
    assert row["tokens"] == 7 * lease.spec.tokens_per_step
    assert row["flops_executed"] == pytest.approx(broker.ledger.spent)


def test_a_stopped_trial_is_told_at_its_next_report(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    assert broker.progress(lease.claim, report(lease, 1)) == ""
    broker.stop(lease.spec.trial_id, "a scheduler's wish")
    assert broker.progress(lease.claim, report(lease, 2)) == "a scheduler's wish"


def test_device_seconds_stop_a_trial_that_takes_longer_than_the_budget_has(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, budget=Budget(unit="device_seconds", total=10.0), clock=clock)
    lease = broker.take("slot")
    clock.now += 9.0
    assert broker.progress(lease.claim, report(lease, 1)) == ""
    clock.now += 2.0
    assert "device-seconds" in broker.progress(lease.claim, report(lease, 2))


def test_what_a_killed_driver_spent_is_counted_by_the_next_one(tmp_path):
    clock = Clock()
    broker = broker_for(tmp_path, clock=clock)
    lease = broker.take("slot")
    clock.now += 2.0
    broker.progress(lease.claim, report(lease, 9))
    after = broker_for(tmp_path)  # the first one is gone without a word
    per_step = after.plan.price(lease.spec) / lease.spec.steps
    assert after.ledger.spent == pytest.approx(9 * per_step)


events = st.lists(
    st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["report", "die", "finish", "oom", "leave"])),
    max_size=60,
)


@settings(max_examples=40)
@given(steps=events, share=st.floats(0.1, 1.5))
def test_no_order_of_events_overshoots_the_budget_or_loses_a_trial(tmp_path_factory, steps, share):
    folder = tmp_path_factory.mktemp("run")
    whole = sum(map(small_plan("text").price, small_plan("text").specs))
    broker = broker_for(folder, budget=Budget(total=share * whole))
    held: dict[str, Lease] = {}
    at: dict[str, int] = {}
    for n, (slot, event) in enumerate(steps):
        if slot not in held or event == "die":
            held.pop(slot, None)
            lease = broker.take(slot, group=f"{n}")
            if isinstance(lease, Lease):
                held[slot], at[slot] = lease, 0
        elif event == "report":
            at[slot] = min(held[slot].spec.steps, at[slot] + 5)
            broker.progress(held[slot].claim, report(held[slot], at[slot]))
        elif event == "leave":
            broker.lost(slot, "preempted")
            held.pop(slot)
        else:
            lease = held.pop(slot)
            done = completed(lease.spec) if event == "finish" else Outcome(status="out_of_memory", reason="no memory")
            broker.finish(lease.claim, done)
        assert broker.ledger.spent + broker.ledger.reserved <= share * whole * (1 + 1e-12)
        states = [entry.state for entry in broker.entries.values()]
        assert states.count(State.RUNNING) == len(held)
        assert states.count(State.ENDED) == len(rows(broker))
        now = snapshot(broker)
        assert sum(now.statuses.values()) + len(now.running) + now.waiting + now.unaffordable == len(states)


@pytest.mark.parametrize("what", ["save", "record"])
def test_a_trial_whose_end_could_not_be_written_down_is_served_again(tmp_path, monkeypatch, what):
    broker = broker_for(tmp_path)
    lease = broker.take("a")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(broker.results if what == "record" else broker.books, what, full)
        with pytest.raises(OSError, match="No space"):
            broker.finish(lease.claim, completed(lease.spec))
    again = broker.take("a", group="another")
    assert again.spec == lease.spec
    broker.finish(again.claim, completed(again.spec))
    assert rows(broker)[lease.spec.trial_id]["status"] == "completed"


def test_a_ledger_that_cannot_be_written_now_fails_no_trial_that_reports(tmp_path, monkeypatch, caplog):
    clock = [0.0]
    broker = broker_for(tmp_path, clock=lambda: clock[0])
    lease = broker.take("a")
    clock[0] = 2.0

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(broker.books, "save", full)
        assert broker.progress(lease.claim, report(lease, 3)) == ""
    assert "the ledger is not written ([Errno 28] No space left on device); it is tried again" in caplog.text
    broker.finish(lease.claim, completed(lease.spec))
    assert rows(broker)[lease.spec.trial_id]["status"] == "completed"


def test_files_that_cannot_be_written_again_and_again_end_the_sweep_without_rows(tmp_path, monkeypatch):
    broker = broker_for(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(broker.books, "save", full)
    for _ in range(MAX_UNWRITTEN):
        lease = broker.take("a")
        with pytest.raises(OSError, match="No space"):
            broker.finish(lease.claim, completed(lease.spec))
    assert broker.take("a") is NoLease.CLOSED
    assert not rows(broker)
    assert {entry.state for entry in broker.entries.values()} == {State.ABANDONED}
    assert "No space left on device" in broker.halted


def test_giving_up_calls_what_had_begun_preempted_and_leaves_the_rest_for_later(tmp_path):
    broker = broker_for(tmp_path)
    lease = broker.take("slot")
    broker.progress(lease.claim, report(lease, 3))
    broker.lost("slot", "preempted")
    broker.give_up("no machine came back")
    assert broker.take("slot") is NoLease.CLOSED
    [row] = Results(broker.run_folder).rows()
    assert (row["trial_id"], row["status"]) == (lease.spec.trial_id, "preempted")
    assert Results(broker.run_folder).finished() == set(), "it is tried again"
    assert all(broker.reports(trial_id, 0)[1] for trial_id in broker.plan.trial_ids)
