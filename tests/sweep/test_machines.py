"""Machines that go away under a real sweep, and workers that come back too late: every trial has
one row, with the losses of an undisturbed sweep. What must stand on the driver's machine does, and
a node with a fault is told from those without.
"""

from __future__ import annotations

import json
import os
import signal

import pytest
import ray

from raysparse.files import Folder
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.plan import Plan
from raysparse.sweep.ray import check
from raysparse.sweep.ray.broker_actor import start_broker
from raysparse.sweep.ray.tune import beside_the_driver
from tests.conftest import REPOSITORY
from tests.sweep import runs
from tests.sweep.machines import begun, finished, start
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow


@pytest.fixture
def here(machines):
    """The driver's node, which has no CPU, as the head of cluster.yaml."""
    ray.init(address=machines.cluster.address, log_to_driver=False)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


def node_of() -> str:
    return ray.get_runtime_context().get_node_id()


def test_the_broker_stands_on_the_drivers_machine(here, tmp_path):
    plan = small_plan("text")
    for n in range(3):
        broker = start_broker(Job(plan, RunFolder.named(Folder(tmp_path), f"run{n}"), plan.specs), patience=30.0)
        assert ray.get(broker.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id())) == here


def test_so_do_the_trials_of_tune(here):
    [bundle] = beside_the_driver().bundles
    for _ in range(3):
        task = ray.remote(num_cpus=0, resources={k: v for k, v in bundle.items() if k != "CPU"})(node_of)
        assert ray.get(task.remote()) == here


def test_of_four_nodes_the_one_whose_clock_is_turned_is_found(here, machines, tmp_path):
    """They are one machine with one address, which is a trouble of its own only where it is the
    loopback.
    """
    (tmp_path / "clock").write_text("3600")
    turned = {
        "RAYSPARSE_STORM_CLOCK": str(tmp_path / "clock"),
        "PYTHONPATH": f"{REPOSITORY / 'tests/chaos/clock'}:{REPOSITORY}",
    }
    machines.add(**turned)
    found = check.nodes(Folder(tmp_path))
    clocks = [[said for what, *said in findings if what == "clock"] for _, findings in found]
    assert len(clocks) == 4
    [[ahead, remedy]] = [said for [said] in clocks if said[1]]
    assert ahead.startswith("+3")
    assert remedy == "set it by NTP (chrony)"
    assert not list(tmp_path.glob(".check-*")), "nothing of the check stays in the storage"


def plan_of(corpus) -> Plan:
    """Six trials of some seconds each."""
    return small_plan(corpus, densities=(1.0, 0.5, 0.25), epochs=(12, 14))


def open_trials(storage) -> int:
    """Trials that have a checkpoint and no row."""
    return begun(storage) - len(runs.journal(storage))


def taken_over(storage) -> bool:
    """Whether the holder of a second lease has written a checkpoint."""
    latest = storage.glob("run/trials/*/checkpoint/latest.json")
    return any(json.loads(path.read_text())["epoch"] == 2 for path in latest)


def test_a_late_worker_is_refused_and_a_machine_that_goes_for_good_leaves_its_trial(corpus, machines, tmp_path):
    """A worker is stopped for longer than its lease and continues; then the machine of the one that
    took its trial over goes.
    """
    driver = start(plan_of(corpus), tmp_path, machines, "--slots", "2")
    runs.wait_until(lambda: open_trials(tmp_path) >= 2 and len(machines.workers()) == 2, driver, tmp_path)
    late, other = machines.workers()
    os.kill(late, signal.SIGSTOP)
    runs.wait_until(lambda: taken_over(tmp_path), driver, tmp_path)
    os.kill(late, signal.SIGCONT)
    runs.wait_until(lambda: "is left to another worker: lease 1 of trial" in machines.said(), driver, tmp_path)
    machines.lose(machines.workers()[other])
    assert finished(driver, tmp_path) == runs.undisturbed(plan_of(corpus), tmp_path / "alone")


def calm_plan(corpus, *, workers: int = 1) -> Plan:
    """One trial that is long enough for a notice to be heard, at a rate at which rounding does not
    grow on the way.
    """
    plan = small_plan(corpus, densities=(0.25,), epochs=(24,), workers=workers)
    return plan.replace(specs=tuple(spec.with_field("optimizer.lr", 5e-4) for spec in plan.specs))


def test_a_notice_is_answered_with_a_checkpoint_and_the_trial_goes_on_with_the_workers_there_are(
    corpus, machines, tmp_path
):
    """Three machines, one is announced to go and goes: three workers, then two, and the same global
    batch.
    """
    plan = calm_plan(corpus, workers=3)
    plan = plan.replace(placement=plan.placement.replace(checkpoint_seconds=3600.0))
    machines.level(3)
    driver = start(plan, tmp_path, machines, "--slots", "1", "--min-workers", "2")
    runs.wait_until(lambda: list(tmp_path.glob("run/trials/*/spec.json")) != [], driver, tmp_path)
    workers = machines.workers()
    assert len(workers) == 3
    assert begun(tmp_path) == 0, "none is due for an hour"
    node = next(iter(workers.values()))
    machines.drain(node, 60.0)
    runs.wait_until(lambda: begun(tmp_path) == 1, driver, tmp_path)
    machines.lose(node)
    together = finished(driver, tmp_path)
    [row] = Results(RunFolder.named(Folder(tmp_path), "run")).rows()
    assert row["workers"] == 2
    assert machines.counts(), "what `level` ends has another name in this Ray"
    expected = runs.undisturbed(calm_plan(corpus), tmp_path / "alone")
    for trial_id, alone in expected.items():
        assert together[trial_id][0] == "completed"
        # Sums in another order; a weight that is nearly pruned may then go the other way.
        assert together[trial_id][2] == pytest.approx(alone[2], rel=1e-3), "only the order of sums differs"


def test_workers_that_cannot_find_each_other_are_said_and_hold_nothing(corpus, machines, tmp_path):
    """As where gloo is told, or takes, an interface that is not there."""
    machines.level(0)
    machines.add(GLOO_SOCKET_IFNAME="none0")
    driver = start(small_plan(corpus, densities=(1.0,), epochs=(1,)), tmp_path, machines, "--slots", "1")
    assert driver.wait(runs.PATIENCE) == 1
    said = (tmp_path / "log.txt").read_text()
    assert "slot-0: its workers could not be kept (try 3 of 3): " in said
    assert "none0" in said
    assert machines.taken() == []
