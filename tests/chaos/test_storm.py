"""The short form of the chaos run (`benchmarks/chaos.py` is the long one): blows of every kind that
an inline sweep can meet, and the verdict.
"""

from __future__ import annotations

import json
import shutil

import pytest

from tests.chaos.plans import many
from tests.chaos.storm import BLOWS, Storm
from tests.chaos.sweeps import sweep
from tests.chaos.verdict import faults_of, losses

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plan(corpus):
    return many(corpus, 6, epochs=4)


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    """The storage of a sweep that nobody disturbed."""
    storage = tmp_path_factory.mktemp("undisturbed")
    assert sweep(plan, storage) == 0
    return storage


@pytest.fixture(scope="module")
def undisturbed(finished):
    return losses(finished / "run")


def test_a_storm_changes_no_number_and_leaves_nothing_behind(plan, undisturbed, tmp_path):
    storm = Storm(plan, tmp_path / "storm", seed=1)
    storm.blow_and_resume("inline", 3)
    storm = Storm(plan, tmp_path / "storm", seed=1)  # in another call, which goes on
    storm.blow_and_resume("inline", 4)
    assert len(storm.blows) <= 4
    assert {blow["blow"].partition(" ")[0] for blow in storm.blows} <= {
        name.partition(" ")[0] for name in BLOWS["inline"]
    }
    assert storm.samples > 0
    storm.finish()
    assert storm.faults(undisturbed) == []


def edit(path, **changes):
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


def test_the_verdict_sees_each_kind_of_damage(finished, undisturbed, tmp_path):
    """A judge who never finds anything would prove nothing."""
    run = shutil.copytree(finished / "run", tmp_path / "run", symlinks=True)
    assert faults_of(run, undisturbed) == []
    one, two = sorted(undisturbed)[:2]
    (run / ".x~host~1~0.tmp").write_bytes(b"")
    edit(run / "journal" / f"{one}.json", train_loss=0.0)
    edit(run / "ledger.json", **{two: {"steps": 0, "seconds": 0.0}})
    [weights] = (run / "trials" / one / "checkpoint").glob("*.pt")
    weights.write_bytes(b"")
    edit(run / "trials" / two / "checkpoint" / "latest.json", file="elsewhere.pt")
    found = "\n".join(faults_of(run, undisturbed | {"planned": ()}))
    for what in (
        "trial planned has no row",
        "the journal and the table differ",
        "its row, the ledger",
        "temporary file",
        f"{one}: its checkpoint is damaged",
        "latest.json names elsewhere.pt",
    ):
        assert what in found
    other = {**undisturbed, one: ("completed", 0.0)}
    del other[two]
    found = "\n".join(faults_of(run, other))
    assert f"trial {two} was never planned" in found
    assert f"trial {one} has" in found
