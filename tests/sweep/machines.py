"""A cluster on this machine whose nodes come and go, and sweeps on it with short leases."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from raysparse.sweep.plan import Plan
from tests.sweep import runs

LEASE = 8.0  # seconds
TRIES = 3  # to start a node: Ray gives up after half a minute, which a busy machine may take
PREEMPTION = 2  # of Ray's reasons to drain a node
COUNTER = "AutoscalingCoordinator"  # the name and the namespace of an actor of Ray
SOON = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 1000}  # a lost node is noticed in seconds

DRIVER = """
import sys
from raysparse.sweep import lease
lease.SECONDS = float(sys.argv.pop(1))
from raysparse.console.cli import main
sys.exit(main())
"""


def patiently(begin: Callable[[], Any]) -> Any:
    """What is begun, at the first or a later try."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(Exception):  # Ray's own, of no other type
            return begin()
    return begin()


class Machines:
    """A head without CPUs, and nodes of one CPU."""

    def __init__(self, nodes: int):
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SOON}
        self.cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.nodes = []
        self.level(nodes)

    def lose(self, node) -> None:
        """Without a word, as a machine whose power fails."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def add(self, **environment: str) -> None:
        self.nodes.append(patiently(lambda: self.cluster.add_node(num_cpus=1, env_vars=environment)))

    def taken(self) -> list[str]:
        """The states of the placement groups that were not given back."""
        with self.joined():
            states = [group["state"] for group in placement_group_table().values()]
        return [state for state in states if state != "REMOVED"]

    def level(self, nodes: int) -> None:
        """As many nodes as were there at first, whatever a test did to them."""
        for node in list(self.nodes[nodes:]):
            self.lose(node)
        while len(self.nodes) < nodes:
            self.add()
        self.forget()

    def forget(self) -> None:
        """End the actor by which Ray Train counts nodes; the next sweep makes it anew. It outlives
        a sweep and looks every 20 s, so an elastic group may begin without a node that is new.
        """
        with self.joined(), contextlib.suppress(ValueError):  # none yet
            ray.kill(ray.get_actor(COUNTER, namespace=COUNTER))

    def counts(self) -> bool:
        """Whether that actor is there, by the name that it has in this Ray."""
        with self.joined(), contextlib.suppress(ValueError):
            return ray.get_actor(COUNTER, namespace=COUNTER) is not None
        return False

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        ray.init(address=self.cluster.address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()

    def drain(self, node, seconds: float) -> None:
        """Tell Ray that a node will be taken away, as an autoscaler does on a notice."""
        deadline = int((time.time() + seconds) * 1000)
        assert GcsClient(address=self.cluster.address).drain_node(node.node_id, PREEMPTION, "spot", deadline)[0]

    def workers(self) -> dict[int, object]:
        """The processes of Ray Train's workers, and the node that each is on."""
        found = {}
        for node in self.nodes:
            [raylet] = node.all_processes["raylet"]
            for pid, name in runs.descendants(raylet.process.pid).items():
                if name.startswith("ray::RayTrainWorker"):
                    found[pid] = node
        return found

    def said(self) -> str:
        """What all worker processes wrote to their logs."""
        logs = Path(self.cluster.head_node.get_logs_dir_path())
        return "".join(path.read_text(errors="replace") for path in sorted(logs.glob("worker-*.err")))

    def close(self) -> None:
        self.cluster.shutdown()


def start(plan: Plan, storage: Path, machines: Machines, *arguments: str) -> subprocess.Popen[str]:
    """A sweep on the machines."""
    address = ("--address", machines.cluster.address)
    return runs.start(plan, storage, *address, *arguments, program=("-c", DRIVER, str(LEASE)))


def finished(driver: subprocess.Popen[str], storage: Path) -> dict[str, tuple]:
    """The losses of a sweep that ends well."""
    assert driver.wait(runs.PATIENCE) == 0, (storage / "log.txt").read_text()
    return runs.losses(storage)


def begun(storage: Path) -> int:
    """Trials that have a checkpoint."""
    return len(list(storage.glob("run/trials/*/checkpoint/latest.json")))
