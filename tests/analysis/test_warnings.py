"""What is said before a number is acted on: each warning where it is due, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analysis.answer.simulate import grid, simulate
from analysis.answer.warnings import lack_of_fit, of_difference, of_distance, of_fit
from analysis.data.points import Points
from analysis.fit import fit
from analysis.fit.intervals import bootstrap
from analysis.laws import named

LAW = named("sparse_small")
THETA = LAW.vector({"ln_A": 5.0, "ln_B": 6.0, "ln_E": 0.8, "alpha": 0.33, "k": -0.2, "ln_R_D": 1.5, "ln_R_N": 2.0})
PLAN = grid([1e7, 1e8, 1e9], [1, 0.5, 0.25], [1e8, 1e9], [1, 3, 10])


@pytest.fixture(scope="module")
def replicated():
    return simulate(LAW, THETA, PLAN, noise=0.005, replicates=2, seed=1)


def test_a_law_that_is_right_has_no_lack_of_fit_and_one_that_is_wrong_has(replicated):
    assert lack_of_fit(replicated, fit(LAW, replicated, delta=1e-2)) == ()
    plain = fit(named("chinchilla"), replicated, delta=1e-2)
    (said,) = lack_of_fit(replicated, plain)
    differ = float(said.split("where seeds differ by ")[1].removesuffix(" %"))
    assert differ == pytest.approx(0.5, rel=0.3)


def test_without_replicates_no_lack_of_fit_can_be_judged():
    runs = simulate(LAW, THETA, PLAN, noise=0.005)
    assert lack_of_fit(runs, fit(named("chinchilla"), runs, delta=1e-2)) == ()


def test_a_fit_that_explains_nothing_and_one_that_leaves_nothing_are_said(replicated):
    noise = replace(replicated, loss=2.0 + 0.1 * np.random.default_rng(0).random(len(replicated)))
    found = fit(named("chinchilla"), noise, delta=1e-2)
    assert any("do not act on it" in said for said in of_fit(noise, found, bootstrap(found, 10)))
    exact = simulate(LAW, THETA, PLAN, noise=0.0)
    clean = fit(LAW, exact)
    assert any("vouch for nothing" in said for said in of_fit(exact, clean, bootstrap(clean, 10)))


def test_a_prediction_far_from_every_run_names_the_nearest_and_how_far(replicated):
    assert of_distance(replicated, Points.at(1.2e8, 1.0, 1e9, 3e9)) == ()
    (said,) = of_distance(replicated, Points.at(5e9, 1.0, 1e9, 1e10))
    assert "a factor 5 away in N" in said
    (said,) = of_distance(replicated, Points.at([1e8, 5e9], 1.0, 1e9, 1e10))
    assert "1 of 2 points" in said


def test_laws_that_differ_at_the_answer_are_said():
    assert of_difference(2.0, 2.001, "x") == ()
    assert "the choice of law matters" in of_difference(2.0, 2.1, "x")[0]
