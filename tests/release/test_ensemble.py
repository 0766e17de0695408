"""The seeds of a point as one model: averaged probabilities, summed cost, a row of its own kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raysparse.console import cli
from raysparse.data.order import Batches
from raysparse.release import ensemble
from raysparse.release.opened import open_model
from raysparse.results import Results
from tests.conftest import small_trial
from tests.release.models import place, trained


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, corpus):
    """Three seeds of a point, and one trial that stands alone."""
    spec = small_trial(data={"corpus": corpus}, evaluations=1)
    specs = [spec.replace(seed=seed, name=f"seed {seed}") for seed in range(3)]
    return trained(tmp_path_factory.mktemp("seeds"), "seeds", *specs, small_trial("dense", data={"corpus": corpus}))


@given(arrays.arrays(np.float64, (4, 7), elements=st.floats(0, 800)))
def test_averaging_is_of_probabilities_and_never_worse_than_the_mean(losses):
    found = ensemble.averaged(list(losses))
    assert (found <= losses.mean(axis=0) + 1e-9).all()
    assert (found >= losses.min(axis=0) - 1e-9).all()
    small = np.minimum(losses, 600.0)
    np.testing.assert_allclose(ensemble.averaged(list(small)), -np.log(np.exp(-small).mean(axis=0)), atol=1e-9)


def test_members_that_agree_gain_nothing():
    losses = np.array([0.3, 2.0, 5.0])
    np.testing.assert_allclose(ensemble.averaged([losses] * 4), losses)


def test_its_loss_is_that_of_the_averaged_distributions(seeds):
    [rows] = ensemble.points(seeds)
    assert [row["seed"] for row in rows] == [0, 1, 2]
    row = ensemble.measure(seeds, rows)
    members = [open_model(place(seeds, open_model(f"{seeds.uri}/trials/{r['trial_id']}").spec)) for r in rows]
    batches = Batches(members[0].store, members[0].spec)
    tokens = torch.from_numpy(batches.validation(0, batches.validation_sequences))
    together = sum(
        torch.softmax(m.model.hidden(tokens[:, :-1]) @ m.model.head.t(), dim=-1).double() for m in members
    ) / len(members)
    expected = -together.gather(-1, tokens[:, 1:, None]).log().mean().item()
    assert row["validation_loss"] == pytest.approx(expected, abs=1e-6)
    assert row["validation_loss"] < np.mean(row["member_validation_losses"])
    assert row["flops_active"] == sum(r["flops_active"] for r in rows)
    assert row["gain"] == pytest.approx(np.mean(row["member_validation_losses"]) - expected, abs=1e-6)


def test_its_row_is_of_its_own_kind(seeds, capsys):
    before = Results(seeds).rows()
    for _ in range(2):  # measured again it replaces itself
        assert cli.main(["ensemble", seeds.uri]) == 0
    assert "3 members" in capsys.readouterr().out
    [row] = seeds.read_json("ensembles.json")
    assert len(row["members"]) == 3
    assert Results(seeds).rows() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--row", "zzz"], "--row 'zzz' is no completed trial"), (["--row", "dense"], "has no two completed trials")],
)
def test_a_mistake_is_one_line(arguments, message, seeds, capsys):
    dense = next(row["trial_id"] for row in Results(seeds).rows() if row["density"] == 1.0)
    assert cli.main(["ensemble", seeds.uri, *(word.replace("dense", dense) for word in arguments)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
