"""Ten times, at a random moment, a node of an autoscaled cluster dies without a word and Ray's
autoscaler starts another one: every trial of the sweep has one row, and the losses are those of an
undisturbed sweep.

    python -m tests.cluster.nodes_leave [--moments 10] [--seed 0] [--epochs 12]

The autoscaler is the second version, with the provider that Ray has for tests: its nodes are
processes. All of it is on a host of its own (`hosts`), which has room for two of them, so the
autoscaler has to notice what is gone before anything comes. `benchmarks/results/` gets
`cluster_nodes.json`. The exit status is 1 if a row is missing or a loss is another one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from benchmarks import record
from tests.cluster.hosts import Host, lan, missing
from tests.cluster.sweeps import GRID, PORT, Sweep, alone, judged, start_ray

PAUSE = 5.0, 30.0  # seconds from the start of a sweep or a loss to the next one
SLOTS = 2
RAYLET = re.compile(r"^ *(\d+) .*/raylet .*--node_id=f+0*[1-9]\d* ", re.MULTILINE)  # of all but the head
CONFIGURATION = {
    "cluster_name": "autoscaled",
    "max_workers": SLOTS,
    "idle_timeout_minutes": 5,
    "provider": {  # external: for its own name Ray looks for a file that its wheel lacks
        "type": "external", "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True, "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "auth": {},
    "available_node_types": {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 100_000_000}, "node_config": {},
            "min_workers": 0, "max_workers": SLOTS,
        },
    },
    "head_node_type": FAKE_HEAD_NODE_TYPE,
    "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [], "cluster_synced_files": [],
}  # fmt: skip
SECOND_VERSION = {
    "RAY_enable_autoscaler_v2": "1", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1",  # as shipped
}  # fmt: skip


def start_autoscaled(host: Host, work: Path) -> None:
    """A head that starts nodes of one CPU when they are asked for."""
    file = work / "autoscaled.yaml"
    file.write_text(yaml.safe_dump(CONFIGURATION))
    host.run(f"cp {file} /tmp/autoscaled.yaml")
    said = " ".join(f"{name}={value}" for name, value in SECOND_VERSION.items())
    start_ray(host, f"--head --port={PORT} --num-cpus=0 --autoscaling-config=/tmp/autoscaled.yaml", said)


def nodes(host: Host) -> list[int]:
    """The processes that are the autoscaler's nodes, as the host numbers them."""
    return [int(pid) for pid in RAYLET.findall(host.run("ps -ewwo pid,args").stdout)]


def lose(host: Host, node: int) -> None:
    """Kill a node with all that runs on it, without a word."""
    host.run(f"kill -9 {node} $(pgrep --parent {node})", check=False)  # some may have ended since they were listed


def disturbed(sweep: Sweep, host: Host, moments: int, choice: random.Random) -> list[dict[str, Any]]:
    """Lose a node so many times; when it was, and how many trials had their rows."""
    losses: list[dict[str, Any]] = []
    while len(losses) < moments:
        sweep.follow(choice.uniform(*PAUSE))
        sweep.wait_for(lambda: bool(nodes(host)), "node to lose")
        living = nodes(host)
        lose(host, choice.choice(living))
        losses.append(
            {"seconds": round(time.monotonic() - sweep.began, 1), "nodes": len(living), "rows": len(sweep.rows())}
        )
        print(losses[-1], flush=True)
    return losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=36, help="of each trial: the sweep must outlast the losses")
    args = parser.parse_args()
    if missing():
        sys.exit(missing())
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    arguments = f"{GRID} --densities 0.25 1 --epochs {args.epochs} --seeds 0 1 2"
    try:
        right = alone(work, arguments)
        with lan(("head",), work / "lan") as net:
            start_autoscaled(net["head"], net.work)
            sweep = Sweep(net, "nodes-leave", f"{arguments} --slots {SLOTS}")
            sweep.wait_for(lambda: bool(sweep.in_training()), "trial in training")
            losses = disturbed(sweep, net["head"], args.moments, random.Random(args.seed))
            verdict = judged(sweep.end(), right)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    printed = verdict.pop("printed")
    record.save("cluster_nodes", [{"nodes_lost": len(losses), **verdict, "losses_of_nodes": losses}])
    print("\n".join(printed))
    print(json.dumps(verdict))
    is_good = verdict["exit_status"] == 0 and verdict["rows"] == verdict["bit_for_bit"] == verdict["planned"]
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
