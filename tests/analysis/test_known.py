"""What the field knows of exponents: nothing beside rows that tell them, much beside a few that do
not.
"""

from __future__ import annotations

import numpy as np
import pytest

from analysis.data.points import Points
from analysis.data.table import Runs
from analysis.fit import fit
from analysis.fit.known import EXPONENTS, with_known
from analysis.laws import named

LAW = named("chinchilla")
# Exponents that are not the field's.
TRUTH = LAW.vector({"ln_A": 6.9, "ln_B": 9.0, "ln_E": 0.6, "alpha": 0.45, "beta": 0.48})


def table(sizes: int, noise: float, seed: int = 0) -> Runs:
    """Runs of few sizes and tokens, within a factor of 8 in each."""
    side = np.geomspace(1, 8, sizes)
    active, tokens = (axis.ravel() for axis in np.meshgrid(1e7 * side, 2e8 * side))
    points = Points.at(active, 1.0, tokens, tokens)
    moved = np.exp(noise * np.random.default_rng(seed).standard_normal(len(points)))
    return Runs.from_arrays(active, 1.0, tokens, tokens, LAW.predict(TRUTH, points) * moved)


def test_rows_without_noise_overrule_what_is_known():
    found = with_known(fit(LAW, table(5, 0.0)))
    assert found.stored["alpha"] == pytest.approx(0.45, abs=1e-4)
    assert found.stored["beta"] == pytest.approx(0.48, abs=1e-4)


def test_the_more_noise_the_nearer_to_what_is_known():
    def off(noise: float) -> float:
        return abs(with_known(fit(LAW, table(4, noise, seed=3))).stored["beta"] - EXPONENTS["beta"][0])

    assert off(0.1) < off(0.01) < off(0.001)


def test_laws_made_after_the_field_are_extrapolated_better_from_a_few_noisy_rows():
    """The mean over 20 tables; of one table noise decides."""
    truth = LAW.vector({"ln_A": 5.5, "ln_B": 6.0, "ln_E": 0.55, "alpha": 0.34, "beta": 0.30})
    far = Points.at(np.array([1e9, 3e9]), 1.0, np.array([2e10, 6e10]), np.array([2e10, 6e10]))
    errors = []
    for seed in range(20):
        runs = table(4, 0.0)
        noise = np.exp(0.01 * np.random.default_rng(seed).standard_normal(len(runs)))
        runs = Runs.from_arrays(
            runs.points.active, 1.0, runs.points.tokens, runs.points.tokens, LAW.predict(truth, runs.points) * noise
        )
        free = fit(LAW, runs)
        told = [np.abs(np.log(each.predict(far) / LAW.predict(truth, far))).mean() for each in (free, with_known(free))]
        errors.append(told)
    alone, known = np.mean(errors, axis=0)
    assert known < 0.7 * alone


def test_over_fitting_that_rows_hardly_tell_does_not_explode_beyond_them():
    """Eight noisy tables of a law without a price of size, asked at ten times their sizes. Alone, a
    crowded law of one of them makes that price a steep power of size.
    """
    truth, crowded = named("data_constrained"), named("bounded")
    values = {"ln_A": 5.5, "ln_B": 5.8, "ln_E": 0.55, "alpha": 0.33, "ln_R_D": np.log(15.0), "ln_R_N": np.log(5.0)}
    axes = np.meshgrid([1e7, 4e7, 1.6e8], [1e8, 4e8], [1.0, 4.0, 16.0])
    active, unique, epochs = (axis.ravel() for axis in axes)
    loss = truth.predict(truth.vector(values), Points.at(active, 1.0, unique, unique * epochs))
    far = Points.at(np.array([1.6e9, 1.6e9]), 1.0, np.array([4e8, 4e8]), np.array([4e8, 3.2e9]))
    expected = truth.predict(truth.vector(values), far)
    errors = []
    for seed in range(8):
        noise = np.exp(0.02 * np.random.default_rng(seed).standard_normal(len(loss)))
        free = fit(crowded, Runs.from_arrays(active, 1.0, unique, unique * epochs, loss * noise))
        errors.append([np.abs(np.log(each.predict(far) / expected)).mean() for each in (free, with_known(free))])
    alone, known = np.max(errors, axis=0)
    assert alone > 1.0
    assert known < 0.2


def test_a_law_without_those_names_keeps_what_it_has():
    """Tied laws have no beta, plain ones no power of the sum."""
    found = with_known(fit(named("chinchilla_tied"), table(4, 0.01)))
    assert found.prior is not None
    assert set(found.prior.mean) == {"alpha", "ln_E"}


@pytest.mark.parametrize("delta", [1e-3, 1e-2])
def test_a_prior_weighs_by_the_miss_whatever_the_threshold(delta):
    """Misses of .003 are squares below the one threshold and sizes above the other."""
    alone = fit(LAW, table(6, 0.003), delta=delta)
    known = with_known(alone)
    assert abs(known.stored["alpha"] - alone.stored["alpha"]) < 0.02
    assert abs(known.stored["beta"] - alone.stored["beta"]) < 0.04


def test_a_parameter_that_is_held_stays_held():
    found = with_known(fit(LAW, table(4, 0.01), fixed={"alpha": 0.45}))
    assert found.stored["alpha"] == 0.45


def test_other_units_of_loss_move_sizes_and_leave_exponents():
    runs = table(4, 0.01)
    bits = Runs.from_arrays(runs.points.active, 1.0, runs.points.tokens, runs.points.tokens, runs.loss / np.log(2.0))
    nats, other = with_known(fit(LAW, runs)).stored, with_known(fit(LAW, bits)).stored
    assert other["alpha"] == pytest.approx(nats["alpha"], abs=1e-3)
    assert other["beta"] == pytest.approx(nats["beta"], abs=1e-3)
    assert other["ln_E"] - nats["ln_E"] == pytest.approx(-np.log(np.log(2.0)), abs=1e-2)
