"""A Ray cluster of two nodes on this machine, one of which can be lost, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from types import TracebackType

PATIENCE = 240  # seconds for nodes to come up on a busy machine
# Without a dashboard, whose dozen processes take longer to start than Ray waits for a node there.
PROGRAM = f"""
import sys
from ray.cluster_utils import Cluster

def add_a_node(**more):
    node = cluster.add_node(wait=False, num_cpus=1, object_store_memory=100 << 20, **more)
    cluster.wait_for_nodes({PATIENCE})
    return node

cluster = Cluster()
add_a_node(include_dashboard=False)
node = add_a_node()
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(node, allow_graceful=False)
    node = add_a_node()
    print("again", flush=True)
cluster.shutdown()
"""


class TwoNodes:
    """The cluster inside a `with`."""

    def __init__(self, environment: dict[str, str]):
        ray = {
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
            "RAY_raylet_start_wait_time_s": str(PATIENCE), "RAY_agent_register_timeout_ms": str(1000 * PATIENCE),
        }  # fmt: skip
        self._environment = {**os.environ, **environment, **ray}

    def __enter__(self) -> TwoNodes:
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=self._said, env=self._environment, process_group=0,
        )  # fmt: skip
        self.address = self._answer()
        return self

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if ":" in line or line.startswith("again"):
                return line.strip()
        self._said.seek(0)
        raise RuntimeError(f"the cluster of two nodes ended: {self._said.read().decode()[-2000:]}")

    def lose_and_add_a_node(self) -> None:
        """Kill the node that is not the head, with all that runs there, and add another."""
        assert self._process.stdin is not None
        self._process.stdin.write("lose\n")
        self._process.stdin.flush()
        self._answer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
