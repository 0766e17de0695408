"""The ledger never lets a sweep spend more than its budget, in whatever order trials start, end and
crash.
"""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysparse.files import Folder
from raysparse.sweep.budget import Budget, Ledger, Work, load_work, price, save_work
from tests.conftest import small_trial

amounts = st.floats(min_value=0.0, max_value=1e22, allow_nan=False)
moves = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["reserve", "settle", "extend"]), amounts, st.floats(0, 1))
)


@given(limit=amounts, steps=moves)
def test_spent_and_reserved_never_exceed_the_limit(limit, steps):
    ledger, held = Ledger(limit), {}
    for key, move, amount, share in steps:
        if move == "reserve" and key not in held and ledger.reserve(key, amount):
            held[key] = amount
        elif move == "extend" and key in held and ledger.extend(key, amount):
            held[key] = max(held[key], amount)
        elif move == "settle" and key in held:
            ledger.settle(key, held.pop(key) * share)
        # one rounding of the sums is all that the two ways of adding may differ by
        assert ledger.spent + ledger.reserved <= limit * (1 + 1e-12)
        assert ledger.remaining >= 0.0


def test_a_crashed_trial_costs_what_it_used():
    ledger = Ledger(limit=10)
    assert ledger.reserve("a", 8)
    assert not ledger.reserve("b", 4)
    ledger.settle("a", 3)
    assert ledger.reserve("b", 4)
    assert (ledger.spent, ledger.reserved, ledger.remaining) == (3, 4, 3)


def test_attempts_of_a_trial_add_up():
    ledger = Ledger(limit=10)
    for used in (3, 4):
        assert ledger.reserve("a", 5)
        ledger.settle("a", used)
    assert ledger.spent_by("a") == 7
    assert not ledger.reserve("a", 5)


def test_two_reservations_of_one_trial_are_our_bug():
    ledger = Ledger()
    ledger.reserve("a", 1)
    with pytest.raises(RuntimeError, match="settle it first"):
        ledger.reserve("a", 1)


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, math.nan])
def test_a_limit_is_a_positive_number(limit):
    with pytest.raises(ValueError, match=r"budget\.total is .* expected a positive number of FLOPs"):
        Budget(total=limit)


@given(st.dictionaries(st.from_regex("[0-9a-f]{12}", fullmatch=True), st.builds(Work, st.integers(0), amounts)))
def test_the_ledger_is_read_as_it_was_written(tmp_path_factory, work):
    folder = Folder(tmp_path_factory.mktemp("ledger"))
    save_work(folder, work)
    assert load_work(folder) == work
    assert folder.read_json("ledger.json").keys() == work.keys()


def test_work_is_counted_in_whatever_unit_a_budget_has(tmp_path):
    """The unit of a budget may change between two runs of a sweep; what was spent is kept as steps
    and seconds.
    """
    spec = small_trial()
    save_work(Folder(tmp_path), {spec.trial_id: Work(10, 2.5)})
    work = load_work(Folder(tmp_path))[spec.trial_id]
    assert price(spec, "device_seconds", work, device="cpu") == 2.5
    assert 0 < price(spec, "flops_active", work, device="cpu") < price(spec, "flops_executed", work, device="cpu")
    assert price(spec, "flops_executed", Work(spec.steps, 0.0), device="cpu") == pytest.approx(
        spec.steps / 10 * price(spec, "flops_executed", work, device="cpu")
    )
