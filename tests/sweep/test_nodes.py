"""What must stand on the driver's machine does, in a cluster where any other would take it; and a
node with a fault is told from those without.
"""

from __future__ import annotations

import pytest
import ray
from ray.cluster_utils import Cluster

from raysparse.files import Folder
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.ray import check
from raysparse.sweep.ray.broker_actor import start_broker
from raysparse.sweep.ray.tune import beside_the_driver
from tests.conftest import REPOSITORY
from tests.sweep.plans import small_plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Three nodes; the driver's has no CPU, as the head of cluster.yaml."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=2)
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def here(cluster):
    """The driver's node."""
    return ray.get_runtime_context().get_node_id()


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


def test_of_four_nodes_the_one_whose_clock_is_turned_is_found(cluster, tmp_path):
    """They are one machine with one address, which is a trouble of its own only where it is the
    loopback.
    """
    (tmp_path / "clock").write_text("3600")
    turned = {
        "RAYSPARSE_STORM_CLOCK": str(tmp_path / "clock"),
        "PYTHONPATH": f"{REPOSITORY / 'tests/chaos/clock'}:{REPOSITORY}",
    }
    node = cluster.add_node(num_cpus=1, env_vars=turned)
    found = check.nodes(Folder(tmp_path))
    clocks = [[said for what, *said in findings if what == "clock"] for _, findings in found]
    assert len(clocks) == 4
    [[ahead, remedy]] = [said for [said] in clocks if said[1]]
    assert ahead.startswith("+3")
    assert remedy == "set it by NTP (chrony)"
    assert not list(tmp_path.glob(".check-*")), "nothing of the check stays in the storage"
    cluster.remove_node(node)
