"""What a dashboard sees of a sweep is what the terminal shows, under names that the shipped Grafana
dashboard draws.
"""

import json
import pickle
import re
import subprocess
import sys
import warnings

import pytest

from raysparse.files import Folder
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.ray.gauges import OF_A_TRIAL, OF_THE_BUDGET
from raysparse.sweep.snapshot import snapshot
from tests.conftest import REPOSITORY
from tests.sweep import runs
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow


def report(step, **more):
    return {"step": step, "steps": 8, "loss": 4.5, "tokens_per_second": 1000.0, "validation_loss": None, **more}


def begun(tmp_path):
    """A broker with one trial that has taken two steps and evaluated once, and another that
    waits.
    """
    plan = small_plan("text")
    broker = Broker(Job(plan, RunFolder.named(Folder(tmp_path), "run"), plan.specs[:2]))
    for spec in plan.specs[:2]:
        broker.submit(spec)
    lease = broker.take("slot")
    broker.progress(lease.claim, report(1, validation_loss=4.25))
    broker.progress(lease.claim, report(2))
    return broker, lease.spec


def test_the_record_of_a_running_trial_holds_its_last_losses(tmp_path):
    broker, spec = begun(tmp_path)
    [one] = snapshot(broker).running
    assert (one.trial_id, one.size, one.density) == (spec.trial_id, spec.model.name, spec.sparsity.density)
    assert (one.loss, one.validation_loss, one.tokens_per_second, one.share) == (4.5, 4.25, 1000.0, 2 / spec.steps)
    assert snapshot(broker).counts == {"running": 1, "waiting": 1, "unaffordable": 0}


def exported(record, file) -> list[str]:
    """The lines of ours that a Ray exports (`tests.sweep.exported`). Where that program is ended
    from outside Python it is started again, twice at most; an exception fails at once.
    """
    file.write_bytes(pickle.dumps(record))
    command, ends = [sys.executable, "-X", "faulthandler", "-m", "tests.sweep.exported", str(file)], []
    while len(ends) < 3:
        told = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=runs.PATIENCE)
        if told.stdout:
            return json.loads(told.stdout.splitlines()[-1])
        ends.append(f"it ended with {told.returncode}: {told.stderr[-2000:]}")
        if "Traceback (most recent call last)" in told.stderr:
            break
        warnings.warn(f"Ray's program, start {len(ends)}: {ends[-1]}", stacklevel=1)
    pytest.fail("\n".join(ends))


def test_ray_exports_what_the_record_says(tmp_path):
    broker, spec = begun(tmp_path)
    lines = exported(snapshot(broker), tmp_path / "record")
    values = {line.split("{")[0].removeprefix("ray_raysparse_"): line for line in lines}
    assert values["trial_validation_loss"].endswith(" 4.25")
    assert f'id="{spec.trial_id}"' in values["trial_loss"]
    assert f'trial="{spec.name}"' in values["trial_loss"]
    assert 'sweep="mine"' in values["budget_spent"]
    assert any('status="waiting"' in line and line.endswith(" 1.0") for line in lines)


def test_grafana_draws_every_gauge_and_nothing_else():
    dashboard = json.loads((REPOSITORY / "clusters/grafana.json").read_text())
    drawn = {target["expr"].split("{")[0] for panel in dashboard["panels"] for target in panel["targets"]}
    ours = {f"trial_{name}" for name in OF_A_TRIAL} | {f"budget_{name}" for name in OF_THE_BUDGET} | {"trials"}
    constant = {"trial_density"}  # a number of a trial that does not move: a label of the others
    assert drawn == {f"ray_raysparse_{name}" for name in ours - constant}
    assert all(re.search(r'sweep=~"\$sweep"', t["expr"]) for panel in dashboard["panels"] for t in panel["targets"])
