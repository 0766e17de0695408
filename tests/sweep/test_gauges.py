"""What a dashboard sees of a sweep is what the terminal shows, under names that the shipped Grafana
dashboard draws.
"""

import json
import re
import time
import urllib.request

import pytest
import ray

from raysparse.files import Folder
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.ray.gauges import OF_A_TRIAL, OF_THE_BUDGET, Gauges
from raysparse.sweep.snapshot import snapshot
from tests.conftest import REPOSITORY
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow
PATIENCE = 60.0


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


def exported():
    """The lines of ours that the node of the cluster exports; none while its agent starts."""
    [node] = ray.nodes()
    try:
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [line for line in answer.read().decode().splitlines() if line.startswith("ray_raysparse_")]
    except OSError:
        return []


def test_ray_exports_what_the_record_says(tmp_path):
    broker, spec = begun(tmp_path)
    ray.init(
        address="local", num_cpus=1, log_to_driver=False, include_dashboard=False,
        _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    try:
        gauges, until, lines = Gauges("mine", "flops_executed"), time.monotonic() + PATIENCE, []
        while len({line.split("{")[0] for line in lines}) < 7 and time.monotonic() < until:
            gauges.show(snapshot(broker))
            time.sleep(1)
            lines = exported() or lines
    finally:
        ray.shutdown()
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
