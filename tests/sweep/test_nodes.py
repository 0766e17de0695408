"""What must stand on the driver's machine does, in a cluster where any other would take it."""

from __future__ import annotations

import pytest
import ray
from ray.cluster_utils import Cluster

from raysparse.files import Folder
from raysparse.run_folder import RunFolder
from raysparse.sweep.books import Job
from raysparse.sweep.ray.broker_actor import start_broker
from raysparse.sweep.ray.tune import beside_the_driver
from tests.sweep.plans import small_plan

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def here():
    """The driver's node in a cluster of three; it has no CPU, as the head of cluster.yaml."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()
    cluster.shutdown()


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
