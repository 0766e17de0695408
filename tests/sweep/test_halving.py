"""Early stopping compares trials of one budget at the same fraction of their runs, and labels what
it stops.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.spec import TrialSpec
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.halving import Halving, Rungs
from raysparse.sweep.lease import Lease
from raysparse.train.evaluate import evaluation_steps
from tests.sweep.plans import small_plan

SPECS = small_plan("text", densities=(1.0, 0.5, 0.25), epochs=(4,)).specs


def test_one_in_three_goes_on():
    rungs = Rungs(Halving(keep=3))
    first, second, third = (spec.replace(seed=n) for n, spec in enumerate([SPECS[0]] * 3))
    half = first.steps // 2
    assert rungs.judge(first, 1.0, half, 2.5) == "", "nothing to compare with yet"
    assert rungs.judge(second, 1.0, half, 2.4) == ""
    assert "halving at 50%" in rungs.judge(third, 1.0, half, 2.6)
    best = SPECS[0].replace(seed=9)
    assert rungs.judge(best, 1.0, half, 2.3) == "", "the best so far always goes on"


def test_trials_of_other_budgets_and_other_fractions_are_not_compared():
    rungs = Rungs(Halving(keep=2))
    half, quarter = SPECS[0].steps // 2, SPECS[0].steps // 4
    for n, loss in enumerate((2.0, 2.1, 2.2)):
        rungs.judge(SPECS[0].replace(seed=n), 1.0, half, loss)
    assert rungs.judge(SPECS[0].replace(seed=7), 2.0, half, 9.0) == ""
    assert rungs.judge(SPECS[0].replace(seed=8), 1.0, quarter, 9.0) == ""
    assert rungs.judge(SPECS[0].replace(seed=9), 1.0, SPECS[0].steps, 9.0) == "", "an end is no rung"


@given(lengths=st.lists(st.integers(20, 2000), min_size=3, max_size=3), evaluation=st.integers(2, 7))
def test_an_evaluation_is_the_same_rung_in_runs_of_all_lengths(lengths, evaluation):
    rungs, verdicts = Rungs(Halving(keep=3)), []
    for n, steps in enumerate(lengths):
        spec = long_run(steps).replace(seed=n)
        verdicts.append(rungs.judge(spec, 1.0, sorted(evaluation_steps(spec))[evaluation - 1], 2.0 + n))
    assert verdicts[2].startswith(f"halving at {evaluation / 8:.0%}: "), lengths
    first = sorted(evaluation_steps(long_run(lengths[0])))[0]
    assert rungs.judge(long_run(lengths[0]), 1.0, first, 9.0) == "", "before the first rung nothing is judged"


def long_run(steps: int) -> TrialSpec:
    batch, unique = SPECS[0].optimizer.batch_sequences, SPECS[0].unique_sequences
    spec = SPECS[0].replace(data=SPECS[0].data.replace(epochs=steps * batch / unique), evaluations=8)
    assert abs(spec.steps - steps) <= 1
    return spec


@given(budget=st.floats(1.0, 1e20), shares=st.permutations([1.0, 1.003, 0.997, 1.002]))
def test_budgets_a_tenth_apart_or_less_are_one_wherever_they_lie(budget, shares):
    rungs, half = Rungs(Halving(keep=5)), SPECS[0].steps // 2
    for n, share in enumerate(shares):
        rungs.judge(SPECS[0].replace(seed=n), budget * share, half, 2.0)
    assert "1 of 5 goes on of 5" in rungs.judge(SPECS[0].replace(seed=9), budget * 1.09, half, 9.0)
    assert rungs.judge(SPECS[0].replace(seed=10), budget * 1.25, half, 9.0) == ""


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_no_other_trial(wrong):
    rungs, half = Rungs(Halving(keep=3)), SPECS[0].steps // 2
    losses = [wrong, wrong, 2.5, 2.6, 2.4, 2.7]
    verdicts = [rungs.judge(SPECS[0].replace(seed=n), 1.0, half, loss) for n, loss in enumerate(losses)]
    rungs.learn(SPECS[0].replace(seed=9), 1.0, {"evaluations": [{"step": half, "loss": wrong}]})
    assert verdicts[:5] == [""] * 5, "its own trial diverges by itself"
    assert "1 of 3 goes on of 4, up to 2.400" in verdicts[5]


@given(losses=st.lists(st.floats(1.0, 9.0), min_size=1, max_size=30, unique=True), keep=st.integers(2, 5))
def test_rungs_read_from_rows_judge_like_rungs_that_saw_it_happen(losses, keep):
    seen, read = Rungs(Halving(keep=keep)), Rungs(Halving(keep=keep))
    half = SPECS[0].steps // 2
    for n, loss in enumerate(losses):
        spec = SPECS[0].replace(seed=n)
        seen.judge(spec, 1.0, half, loss)
        read.learn(spec, 1.0, {"evaluations": [{"step": half, "loss": loss}]})
    last = SPECS[0].replace(seed=99)
    assert seen.judge(last, 1.0, half, 5.0) == read.judge(last, 1.0, half, 5.0)


def test_a_stopped_trial_is_a_row_that_says_by_whom(tmp_path):
    specs = [SPECS[0].replace(seed=n) for n in range(3)]
    plan = small_plan("text").replace(specs=tuple(specs), stopping=Halving(keep=3))
    broker = Broker(Job(plan, RunFolder(tmp_path), plan.specs))
    verdicts = []
    for n, spec in enumerate(specs):
        broker.submit(spec)
        lease = broker.take(f"slot-{n}")
        assert isinstance(lease, Lease)
        verdicts.append(broker.progress(lease.claim, {"step": spec.steps // 2, "validation_loss": 2.0 + n}))
    assert verdicts[:2] == ["", ""]
    assert verdicts[2].startswith("halving at 50%: loss 4.000, 1 of 3 goes on")
    assert not Results(RunFolder(tmp_path)).rows(), "the trial itself ends, and then there is a row"


@pytest.mark.parametrize(("values", "message"), [({"keep": 1}, "halving.keep is 1"), ({"first": 1.0}, "halving.first")])
def test_a_wrong_rule_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Halving(**values)
