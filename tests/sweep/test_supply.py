"""Planners through the supply and the broker: what they propose is run once, within the budget,
and a killed sweep goes on with the same proposals.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from raysparse.console.progress import Display
from raysparse.files import Folder
from raysparse.results import Evaluation, Outcome, Results
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, TrialSpec
from raysparse.sweep import lease as leases
from raysparse.sweep import planners, runner
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.budget import Budget
from raysparse.sweep.lease import Lease, NoLease
from raysparse.sweep.plan import Plan, load
from raysparse.sweep.planners.base import RUNNING, Known, Planner, Purse
from raysparse.sweep.settings import Settings
from raysparse.sweep.supply import Supply
from tests.sweep.plans import small_plan


@dataclass(frozen=True, kw_only=True)
class Longer(Planner):
    """Proposes the first trial with one epoch more than the longest that is known, up to `most`."""

    first: TrialSpec
    most: int

    def data(self) -> Sequence[DataSpec]:
        return [self.first.data]

    def question(self) -> tuple[str, ...]:
        return (f"then longer ones, up to {self.most} epochs",)

    def ask(self, known: Sequence[Known], purse: Purse) -> Sequence[TrialSpec]:
        if any(trial.status == RUNNING for trial in known):
            return []
        epochs = 1 + max((round(trial.spec.data.epochs) for trial in known), default=0)
        spec = self.first.replace(data=self.first.data.replace(epochs=epochs), name=f"x{epochs}")
        return [spec] if epochs <= self.most and purse.affords(spec) else []


@pytest.fixture(autouse=True)
def known_to_plans(monkeypatch):
    """A plan.json with this planner can be read back."""
    whole = planners.from_dict

    def from_dict(values):
        rest = {key: value for key, value in values.items() if key != "kind"}
        return Longer.from_dict(rest) if values["kind"] == "longer" else whole(values)

    monkeypatch.setattr(planners, "from_dict", from_dict)


def longer_plan(corpus: str = "text", most: int = 4, **changes) -> Plan:
    first = small_plan(corpus).specs[0]
    return small_plan(corpus).replace(specs=(), planner=Longer(first=first, most=most), **changes)


def sweep(plan: Plan, storage) -> runner.Summary:
    view = Display(console=Console(file=io.StringIO()))
    return runner.run(plan, Folder(storage), "run", Settings(executor="inline"), view=view)


def test_a_planner_is_asked_until_it_has_nothing_to_say(corpus, tmp_path):
    summary = sweep(longer_plan(corpus), tmp_path)
    assert (summary.ran, summary.finished, summary.trials, summary.unfinished) == (4, 4, 4, {})
    assert [spec.data.epochs for spec in load(summary.folder).specs] == [1, 2, 3, 4]
    again = sweep(longer_plan(corpus), tmp_path)
    assert (again.ran, again.finished) == (0, 4), "running it again finds nothing to do"


def test_a_sweep_may_go_on_under_a_larger_question_but_not_under_another(corpus, tmp_path):
    sweep(longer_plan(corpus, most=2), tmp_path)
    with pytest.raises(ValueError, match="its planner asks another question"):
        sweep(longer_plan(corpus, most=3), tmp_path)


def test_the_budget_ends_a_planner(corpus, tmp_path):
    plan = longer_plan(corpus, most=9)
    one = plan.price(plan.planner.first)
    summary = sweep(plan.replace(budget=Budget(total=6.5 * one)), tmp_path)
    assert summary.finished == 3, "1 + 2 + 3 epochs fit, the fourth does not"


def test_what_was_proposed_before_a_kill_is_run_first_and_the_rest_is_proposed_as_before(corpus, tmp_path):
    """The driver dies after a proposal is in plan.json and before its row is there."""
    plan = longer_plan(corpus)
    sweep(plan.replace(planner=plan.planner.replace(most=2)), tmp_path / "whole")
    folder = RunFolder.named(Folder(tmp_path), "run")
    first = plan.planner.first
    proposed = [first.replace(data=first.data.replace(epochs=n), name=f"x{n}") for n in (1, 2)]
    plan.replace(specs=tuple(proposed)).save(folder)
    summary = sweep(plan, tmp_path)
    assert [spec.data.epochs for spec in load(folder).specs] == [1, 2, 3, 4]
    assert (summary.ran, summary.finished) == (4, 4)
    losses = {row["trial_id"]: row["validation_loss"] for row in Results(folder).rows()}
    whole = Results(RunFolder.named(Folder(tmp_path / "whole"), "run")).rows()
    assert all(losses[row["trial_id"]] == row["validation_loss"] for row in whole)


def test_a_planner_that_proposes_a_known_trial_is_our_mistake(tmp_path):
    plan = longer_plan()
    supply = Supply(Job(plan.replace(specs=(plan.planner.first,)), RunFolder(tmp_path), ()))
    with pytest.raises(ValueError, match="same trial more than once"):
        supply.next(lambda: ([], 1e30))


def test_a_planner_that_had_nothing_to_say_is_asked_again_only_when_something_has_changed(tmp_path, monkeypatch):
    plan, asked, ask = longer_plan(), [], Longer.ask
    monkeypatch.setattr(Longer, "ask", lambda self, known, purse: asked.append(len(known)) or ask(self, known, purse))
    supply = Supply(Job(plan, RunFolder(tmp_path), ()))
    first = supply.next(lambda: ([], 1e30))
    for _ in range(3):
        assert supply.next(lambda: ([Known(first, RUNNING)], 1e30)) is NoLease.WAIT
    assert asked == [0, 1]
    ended = Known(first, "completed", 2.0, {"validation_loss": 2.0})
    assert supply.next(lambda: ([ended], 1e30)).data.epochs == 2


EVENTS = st.lists(
    st.tuples(st.sampled_from(["one", "two"]), st.sampled_from(["ask", "report", "die", "finish", "oom", "restart"])),
    max_size=60,
)


@settings(max_examples=40)
@given(events=EVENTS, buys=st.floats(0.5, 30))
def test_no_interleaving_through_a_planner_overshoots_the_budget_or_lets_a_trial_wait(events, buys, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    plan = longer_plan(most=6)
    plan = plan.replace(budget=Budget(total=buys * plan.price(plan.planner.first)))
    now = [0.0]
    clock = partial(now.__getitem__, 0)
    broker, supply, held = Broker(Job(plan, folder, ()), clock=clock), Supply(Job(plan, folder, ())), {}
    for slot, event in [*events, *[("one", "ask"), ("one", "finish")] * 12]:
        if event == "restart":  # the driver and all slots die; what was begun is queued again
            plan = plan.continued(folder)
            done = Results(folder).finished()
            job = Job(plan, folder, [s for s in plan.specs if s.trial_id not in done])
            broker, supply, held = Broker(job, clock=clock), Supply(job), {}
        elif event == "ask" and slot not in held:
            spec = supply.next(broker.standing)
            if isinstance(spec, TrialSpec):
                broker.submit(spec)
            lease = broker.take(slot)
            if isinstance(lease, Lease):
                held[slot] = lease
            elif lease is NoLease.WAIT and not held:
                assert not [e for e in broker.entries.values() if e.state.value == "waiting"], (
                    "a trial waits for nobody"
                )
        elif slot in held:
            _tell(broker, slot, held, event)
            now[0] += 2 * leases.SECONDS if event == "die" else 0.0  # whoever died might have lived on, cut off
        assert broker.ledger.spent + broker.ledger.reserved <= plan.budget.limit * (1 + 1e-12)
    ids = [row["trial_id"] for row in Results(folder).rows()]
    assert len(ids) == len(set(ids))


def _tell(broker: Broker, slot: str, held: dict[str, Lease], event: str) -> None:
    lease, spec = held[slot], held[slot].spec
    if event == "report":
        step = min(spec.steps, broker.entries[spec.trial_id].step + 1)
        broker.progress(lease.claim, {"step": step, "validation_loss": None})
    elif event == "die":
        broker.lost(slot)
        held.pop(slot)
    else:
        outcome = Outcome(status="out_of_memory", reason="no memory") if event == "oom" else completed(spec)
        broker.finish(lease.claim, outcome)
        held.pop(slot)


def completed(spec: TrialSpec, loss: float = 2.0) -> Outcome:
    end = Evaluation(spec.steps, spec.tokens, loss)
    return Outcome(
        status="completed", validation_loss=loss, evaluations=(end,), steps=spec.steps, tokens=spec.tokens, seconds=1.0
    )


def test_a_planner_knows_of_every_trial_once_whatever_its_state(tmp_path):
    plan = longer_plan(most=9)
    broker = Broker(Job(plan, RunFolder(tmp_path), ()))
    specs = [plan.planner.first.replace(data=plan.planner.first.data.replace(epochs=n)) for n in (1, 2, 3)]
    for spec in specs:
        broker.submit(spec)
    lease = broker.take("slot")
    broker.finish(lease.claim, completed(specs[0], 1.5))
    broker.take("slot")
    known, left = broker.standing()
    assert {k.spec.data.epochs: (k.status, k.loss) for k in known} == {
        1: ("completed", 1.5), 2: (RUNNING, None), 3: (RUNNING, None),
    }  # fmt: skip
    assert left == float("inf")
    assert all(dataclasses.is_dataclass(k) for k in known)
