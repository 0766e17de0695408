"""The prior mean of the model of settings: a law from a handful of runs, badly set ones too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.answer.axes import Frame
from analysis.answer.baseline import LAW, fit_baseline
from analysis.data.points import Points
from analysis.data.table import Runs

THETA = LAW.vector(
    {
        "ln_A": 4.2, "ln_B": 4.4, "ln_E": 0.3, "alpha": 0.36, "beta": 0.38,
        "k": -0.3, "ln_R_D": np.log(8.0), "ln_R_N": np.log(5.0),
    }
)  # fmt: skip


def points(rows: int, seed: int) -> Points:
    generator = np.random.default_rng(seed)
    size, epochs = np.exp(generator.uniform([10, 0.7], [12.5, 3.5], (rows, 2))).T
    return Points.at(size, generator.choice([1.0, 0.5, 0.25], rows), 50_000.0, 50_000.0 * epochs)


def table(rows: int, seed: int, noise: float = 0.01) -> Runs:
    """Runs of the law; each octave of weight decay from its best one costs .05 nats at its square,
    and the best one grows with epochs.
    """
    at = points(rows, seed)
    generator = np.random.default_rng(seed + 1)
    off = generator.uniform(-2, 2, rows)
    decay = (at.epochs / 9) ** 0.5 * 2**off
    loss = LAW.predict(THETA, at) + 0.05 * off**2 + noise * generator.standard_normal(rows)
    return Runs.from_arrays(at.active, at.density, at.unique, at.tokens, loss, {"weight_decay": decay})


def fitted(runs: Runs):
    frame = Frame.of(runs.points, runs.settings)
    settings = frame.settings(runs.settings, len(runs))
    return fit_baseline(frame, runs.points, settings, runs.loss, 0.15 * float(runs.loss.min()))


@pytest.mark.parametrize("seed", range(3))
def test_it_speaks_of_well_set_runs(seed):
    base, fresh = fitted(table(40, seed)), points(200, 99)
    error = base(base.frame.coordinates(fresh)) - LAW.predict(THETA, fresh)
    assert np.median(np.abs(error)) < 0.03  # badly set rows lie .07 above the law on average
    assert np.abs(error).max() < 0.2


def test_runs_that_went_wrong_move_it_little():
    runs = table(40, 0)
    spoilt = Runs.from_arrays(
        runs.points.active, runs.points.density, runs.points.unique, runs.points.tokens,
        np.where(np.arange(40) % 10 == 3, runs.loss + 4.0, runs.loss), runs.settings,
    )  # fmt: skip
    fresh = points(100, 99)
    one, other = (base(base.frame.coordinates(fresh)) for base in (fitted(runs), fitted(spoilt)))
    assert np.median(np.abs(one - other)) < 0.05


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_runs_are_answered_by_the_prior(rows):
    base = fitted(table(rows, 4))
    assert np.isfinite(base.theta).all()
    size, epochs = np.meshgrid(np.geomspace(1e4, 1e6, 9), np.geomspace(1, 100, 9), indexing="ij")
    at = Points.at(size.ravel(), 1.0, 50_000.0, 50_000.0 * epochs.ravel())
    loss = LAW.predict(base.theta, at).reshape(9, 9)
    assert (np.diff(loss, axis=0) <= 1e-12).all()
    assert (np.diff(loss, axis=1) <= 1e-12).all()


@given(st.integers(0, 10_000))
def test_columns_are_undone(seed):
    runs = table(6, seed)
    frame = Frame.of(runs.points, runs.settings)
    again = frame.points(frame.coordinates(runs.points))
    for name in ("active", "density", "unique", "tokens"):
        np.testing.assert_allclose(getattr(again, name), getattr(runs.points, name), rtol=1e-9)
