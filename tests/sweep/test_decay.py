"""The study of weight decay: its trials are those it says, and its tables find what was planted."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import decay

STEPS = {3: 292, 9: 877, 27: 2632}


def rows(optimum):
    """Losses that rise as the square of the logarithm from `optimum(spec)`, the best weight decay
    in the unit of the trial; 0 is a little worse than all else.
    """
    found = []
    for spec in decay.specs(decay.SIZES):
        value, best = spec.optimizer.weight_decay, optimum(spec)
        loss = 2.0 + 0.01 * math.log(value / best) ** 2 if value else 3.0
        found.append({
            "status": "completed", "model": spec.model.name, "density": spec.sparsity.density, "seed": spec.seed,
            "epochs": spec.data.epochs, "decay_per": spec.optimizer.decay_per, "weight_decay": value,
            "lr": spec.optimizer.lr, "steps": spec.steps, "validation_loss": loss,
        })  # fmt: skip
    return found


def test_the_trials_are_those_of_the_study():
    specs = decay.specs(["laptop-m"])
    assert len(specs) == 2 * 3 * 5 * 3 + 3 * 4
    assert {s.steps for s in specs if s.data.epochs in STEPS} == set(STEPS.values())
    assert sum(s.optimizer.decay_per == "dense_rate" for s in specs) == 12


def test_tables_of_a_folder_that_does_not_exist_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["decay.py", "--storage", str(tmp_path), "--tables", "nope"])
    assert decay.main() == 2
    assert f"{tmp_path}/nope holds no plan.json, so it is not a run folder" in capsys.readouterr().err


@given(best=st.floats(0.55, 5.47))
def test_a_parabola_in_the_logarithm_is_solved_exactly(best):
    losses = {v: 2.0 + 0.3 * math.log(v / best) ** 2 for v in (0.3, 1.0, 3.0, 10.0)}
    assert decay.lowest_point(losses) == (pytest.approx(best, rel=1e-9), "")


def test_a_best_value_at_the_end_of_the_tested_ones_is_marked():
    assert decay.lowest_point({1.0: 2.0, 3.0: 2.1, 10.0: 2.3}) == (1.0, "≤")
    assert decay.lowest_point({1.0: 2.3, 3.0: 2.1, 10.0: 2.0}) == (10.0, "≥")


@pytest.mark.parametrize("unit", decay.UNITS)
def test_the_unit_in_which_one_value_was_planted_wins(unit, monkeypatch):
    """One value for every cell in that unit: twice the rate halves it in the others' own unit, a
    longer run or a lower rate raises that of the run. Without 3 epochs, so that all optima lie
    between tested values.
    """
    monkeypatch.setattr(decay, "EPOCHS", [9, 27])

    def optimum(spec):
        own = spec.optimizer.decay_per == "own_rate"
        dense_rate = {"own_rate": 1.7 if spec.sparsity.density == 1 else 3.4, "dense_rate": 1.7}.get(unit)
        if dense_rate is None:
            dense_rate = 10.0 / (spec.optimizer.lr * spec.steps)
        return dense_rate / spec.sparsity.learning_rate_factor if own else dense_rate

    lines = decay.unit_table(decay.by_cell(rows(optimum)))
    assert lines[-1] == f"the best value moves least in the unit {unit!r}"
    spread = next(line for line in lines if line.startswith("| sd of the logarithm")).split("|")
    column = 4 + decay.UNITS.index(unit)
    assert spread[column].strip() == "0.00"
    assert min(float(s) for n, s in enumerate(spread[4:-1], 4) if n != column) > 0.2
