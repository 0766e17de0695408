"""Laws: the published numbers exactly, the analytic gradient against differences, and limits that
must hold.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.answer.simulate import grid, simulate
from analysis.data.points import Points
from analysis.fit import fit
from analysis.laws import LAWS, PUBLISHED, named, published_vector

PUBLISHED_LAW = named("sparse_published")
POINTS = grid([1e7, 3e8, 5e9], [1.0, 0.6, 0.1], [1e8, 3e9], [1, 2.5, 30])


def draw(law, seed):
    generator = np.random.default_rng(seed)
    return np.array([[generator.uniform(*parameter.start) for parameter in law.parameters] for _ in range(3)])


def test_the_published_law_predicts_the_held_out_runs_to_the_printed_digits(held_out):
    with (Path(__file__).parent / "data" / "dc_heldout.csv").open() as file:
        printed = np.array([float(row["loss_pred_published"]) for row in csv.DictReader(file)])
    predicted = PUBLISHED_LAW.predict(published_vector(), held_out.points)
    assert np.abs(predicted - printed).max() < 5e-5
    assert np.sqrt(np.mean((predicted - held_out.loss) ** 2)) == pytest.approx(0.02098, abs=1e-5)


def test_a_plain_transcription_of_the_reference_formula_agrees():
    """The formulas of arXiv 2606.01155 written down term by term, for one point at a time."""
    p = {**PUBLISHED, **{name: np.exp(PUBLISHED[f"ln_{name}"]) for name in "ABE"}}
    for n, d, u, t, got in zip(
        POINTS.active,
        POINTS.density,
        POINTS.unique,
        POINTS.tokens,
        PUBLISHED_LAW.predict(published_vector(), POINTS),
        strict=True,
    ):
        s = 1 - d
        factor = d ** p["eps"] + (p["P"] * s ** p["mu"] if s else 0.0)
        un = min(n, u * (p["A"] * factor / p["B"]) ** (1 / p["alpha"]))
        rn, rd = max(n / un - 1, 0), max(t / u - 1, 0)
        rd_star = p["R_D"] * (1 + p["l1"] * s + p["s1"] * s**2)
        rn_star = p["R_N"] * (1 + p["l2"] * s + p["s2"] * s**2)
        n_eff, d_eff = un + un * rn_star * (1 - np.exp(-rn / rn_star)), u + u * rd_star * (1 - np.exp(-rd / rd_star))
        assert got == pytest.approx(
            p["E"] + p["A"] * factor / n_eff ** p["alpha"] + p["B"] / d_eff ** p["alpha"], rel=1e-12
        )


def test_with_untied_exponents_the_feedable_size_inverts_the_compute_optimum():
    """D_opt(C) = U is solved for C; N_opt(C) must then be what the law calls feedable (arXiv
    2606.01155).
    """
    law = named("data_constrained_untied")
    theta = law.vector(
        {"ln_A": 6.0, "ln_B": 7.3, "ln_E": 0.6, "alpha": 0.31, "beta": 0.42, "ln_R_D": 2.0, "ln_R_N": 1.0}
    )
    a, b, alpha, beta, unique = np.exp(6.0), np.exp(7.3), 0.31, 0.42, 1e9
    g = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    compute = 6 * (g * unique) ** ((alpha + beta) / alpha)
    expected = g * (compute / 6) ** (beta / (alpha + beta))
    got = np.exp(law.log_feedable(theta[None], Points.at(1e9, 1.0, unique, unique)))[0, 0]
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LAWS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_analytic_gradient_is_the_derivative(name, seed):
    law, step = LAWS[name], 1e-6
    theta = draw(law, seed)
    _, jacobian = law.log_loss_and_jacobian(theta, POINTS)
    margin = np.abs(law.log_feedable(theta, POINTS) - POINTS.log_active) > 1e-4  # N_eff has a kink at N_opt
    for column in range(len(law.names)):
        up, down = theta.copy(), theta.copy()
        up[:, column] += step
        down[:, column] -= step
        numeric = (law.log_loss(up, POINTS) - law.log_loss(down, POINTS)) / (2 * step)
        assert np.abs(numeric - jacobian[:, column])[margin].max() < 2e-5, law.names[column]


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.factor.parameters])
def test_dense_models_are_the_unit_of_every_density_factor(name):
    assert LAWS[name].log_factor(draw(LAWS[name], 1), [1.0]) == pytest.approx(0.0)


def test_the_published_factor_has_an_exact_alias_at_mu_one():
    """(eps 0, P) and (eps 1, P + 1) are the same curve, so the three numbers must not be read
    alone.
    """
    law = named("sparse_one_epoch")
    base = {"ln_A": 5.0, "ln_B": 6.0, "ln_E": 0.8, "alpha": 0.3, "mu": 1.0}
    one, other = law.vector({**base, "eps": 0.0, "P": -0.3}), law.vector({**base, "eps": 1.0, "P": 0.7})
    assert law.predict(one, POINTS) == pytest.approx(law.predict(other, POINTS), rel=1e-13)


def test_infinite_saturation_constants_leave_chinchilla():
    law, plain = named("data_constrained"), named("chinchilla_tied")
    base = {"ln_A": 6.0, "ln_B": 7.0, "ln_E": 0.6, "alpha": 0.35}
    saturated = law.vector({**base, "ln_R_D": 18.5, "ln_R_N": 18.5})
    assert law.predict(saturated, POINTS) == pytest.approx(plain.predict(plain.vector(base), POINTS), rel=1e-5)


def test_the_published_law_never_rises_with_epochs_and_the_penalty_lets_it():
    epochs = np.geomspace(1, 500, 60)
    points = Points.at(1e9, 0.5, 1e8, 1e8 * epochs)
    assert np.all(np.diff(PUBLISHED_LAW.predict(published_vector(), points)) <= 0)
    law = named("sparse_overfit")
    theta = np.append(published_vector(), [-7.5, 1.5, 0.5])
    assert np.any(np.diff(law.predict(theta, points)) > 0)


def test_a_density_factor_that_would_be_negative_loses_and_does_not_crash():
    theta = published_vector()
    theta[PUBLISHED_LAW.names.index("P")] = -3.0
    assert np.all(np.isfinite(PUBLISHED_LAW.predict(theta, POINTS)))


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'chinchilla'"):
        named("chinchila")
    with pytest.raises(ValueError, match="missing: ln_B; unknown: lnB"):
        named("chinchilla_tied").vector({"ln_A": 1, "lnB": 1, "ln_E": 1, "alpha": 1})


def test_a_plain_transcription_of_the_bounded_formula_agrees():
    """L = E + (L0 - E) h / (1 + h), h = a / N^alpha + b / T^beta + c N^gamma / D^delta (arXiv
    2605.09189); its D is our U, its T our D.
    """
    law = named("bounded")
    values = {"ln_A": 4.0, "ln_B": 5.0, "ln_E": 0.5, "alpha": 0.3, "beta": 0.35, "ln_G": 2.0}
    theta = law.vector({**values, "ln_K": -3.0, "gamma": 0.4, "zeta": 0.5})
    p = grid([1e7, 3e8], [1.0], [1e8, 3e9], [1, 30])
    h = np.exp(4.0) / p.active**0.3 + np.exp(5.0) / p.tokens**0.35 + np.exp(-3.0) * p.active**0.4 / p.unique**0.5
    expected = np.exp(0.5) + np.exp(2.0) * h / (1 + h)
    assert law.predict(theta, p) == pytest.approx(expected, rel=1e-12)
    assert (law.predict(theta, p) < np.exp(0.5) + np.exp(2.0)).all()


def test_planted_bounded_laws_come_back():
    law = named("bounded")
    values = {"ln_A": 4.0, "ln_B": 5.0, "ln_E": 0.5, "alpha": 0.3, "beta": 0.35, "ln_G": 2.0}
    theta = law.vector({**values, "ln_K": -3.0, "gamma": 0.4, "zeta": 0.5})
    plan = grid([1e6, 1e7, 1e8, 1e9], [1.0], [1e7, 1e8, 1e9], [1, 4, 16])
    runs = simulate(law, theta, plan, noise=0.0)
    found = fit(law, runs, delta=1e-2)
    assert found.predict(plan) == pytest.approx(runs.loss, rel=1e-4)
