"""What a Ray exports of the record in a file (a pickled `Snapshot`), as a sweep does it: a program,
as one process of the tests, which had this Ray in it, once ended without a word.

`python -m tests.sweep.exported RECORD` prints a JSON list of the lines of ours that the node
exports, as soon as there are seven kinds of them, or after a minute.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
import urllib.request
from pathlib import Path

import ray

from raysparse.sweep.ray.gauges import Gauges

PATIENCE = 60.0
KINDS = 7


def exported() -> list[str]:
    """The lines of ours that the node of the cluster exports; none while its agent starts."""
    [node] = ray.nodes()
    try:
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [line for line in answer.read().decode().splitlines() if line.startswith("ray_raysparse_")]
    except OSError:
        return []


def main() -> None:
    record = pickle.loads(Path(sys.argv[1]).read_bytes())
    ray.init(
        address="local", num_cpus=1, log_to_driver=False, include_dashboard=False,
        _system_config={"metrics_report_interval_ms": 500},
    )  # fmt: skip
    gauges, until, lines = Gauges("mine", "flops_executed"), time.monotonic() + PATIENCE, []
    while len({line.split("{")[0] for line in lines}) < KINDS and time.monotonic() < until:
        gauges.show(record)
        time.sleep(1)
        lines = exported() or lines
    print(json.dumps(lines), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
