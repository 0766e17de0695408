"""What happens to a sweep when a machine goes away, is cut off, or knows itself by the wrong name.

`python -m tests.cluster.breaks` makes three hosts (`hosts`), starts Ray on them and breaks them one
after the other, as a sweep trains on two; `benchmarks/results/` gets `cluster_breaks.json`, a row
for each break: exit status, rows, and how many losses are those of the same sweep in one process.
`--only NAME` runs one and prints what the sweep said. The head drives and has no CPUs for training.
Left out: what a cloud does to machines.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from tests.cluster.hosts import Lan, lan, missing
from tests.cluster.sweeps import GRID, LIMIT, PORT, Sweep, alone, judged, start_ray, start_worker

MANY = f"{GRID} --densities 0.25 1 --epochs 10 --seeds 0 1"
LONG = MANY.replace("--epochs 10", "--epochs 20")  # longer than a lease
ONE = f"{GRID} --densities 0.25 --epochs 10 --seeds 0"
AWAY = 90.0  # seconds without a network; Ray gives a node up after 65
RESULTS = "cluster_breaks"


def start_cluster(net: Lan) -> None:
    start_ray(net["head"], f"--head --port={PORT} --num-cpus=0")
    for name in ("one", "two"):
        start_worker(net[name])


def in_the_middle(sweep: Sweep) -> None:
    """Wait until a trial has ended and two are in training."""
    sweep.wait_for(lambda: bool(sweep.rows()) and len(sweep.in_training()) == 2, "two trials in training")


def goes_away(net: Lan) -> dict[str, Any]:
    """A machine is switched off in the middle of a trial and does not come back."""
    sweep = Sweep(net, "goes-away", MANY)
    in_the_middle(sweep)
    unsaved = sweep.unsaved()
    net["one"].switch_off()
    return {**sweep.end(), "seconds_lost": unsaved}


def cut_off(net: Lan) -> dict[str, Any]:
    """A machine loses its network in the middle of a trial and comes back after a minute and a
    half: what it trained meanwhile must not count, though it still sees the storage.
    """
    sweep = Sweep(net, "cut-off", LONG)
    in_the_middle(sweep)
    unsaved, since = sweep.unsaved(), time.monotonic()
    net["two"].unplug()
    sweep.follow(AWAY)
    net["two"].plug()
    sweep.follow(LIMIT)
    found = sweep.end()
    within, late = sweep.superseded(since)
    start_worker(net["two"])  # Ray ends a node that it has given up
    return {**found, "seconds_lost": unsaved, "written_in_its_lease": within, "written_late": late}


def two_machines_one_lost(net: Lan) -> dict[str, Any]:
    """A trial on two machines loses one of them, which comes back."""
    sweep = Sweep(net, "two-machines", f"{ONE} --workers 2")
    sweep.wait_for(lambda: len(sweep.in_training()) == 1, "a checkpoint")
    unsaved = sweep.unsaved()
    net["one"].switch_off()
    net.again("one")
    start_worker(net["one"])
    return {**sweep.end(), "seconds_lost": unsaved}


def wrong_name(net: Lan) -> dict[str, Any]:
    """Hosts whose own name means 127.0.0.1, as some distributions install it; a trial on two of
    them.
    """
    for name in ("one", "two"):
        net[name].run(
            f"sed 's/.* {name}$/127.0.1.1 {name}/' /etc/hosts > /tmp/hosts; mount --bind /tmp/hosts /etc/hosts"
        )
    try:
        return Sweep(net, "wrong-name", f"{ONE} --workers 2").end()
    finally:
        for name in ("one", "two"):
            net[name].run("umount /etc/hosts")


def local_storage(net: Lan) -> dict[str, Any]:
    """A storage that is another folder on each machine."""
    found = Sweep(net, "local-storage", MANY, storage="/root/runs").end()
    return {**found, "files_left": net["head"].run("find /root/runs -type f -printf '%P\\n'").stdout.split()}


BREAKS = {  # and what they train
    "local storage": (local_storage, MANY), "wrong name": (wrong_name, ONE), "cut off": (cut_off, LONG),
    "two machines, one lost": (two_machines_one_lost, ONE), "goes away": (goes_away, MANY),
}  # fmt: skip


def broken(names: list[str], net: Lan, work: Path) -> list[str]:
    """Break the hosts in these ways and keep a row of each; what the last sweep printed."""
    printed: list[str] = []
    right: dict[str, dict[str, float]] = {}
    for name in names:
        happens, arguments = BREAKS[name]
        if arguments not in right:
            right[arguments] = alone(work, arguments)
        row = {"break": name, **judged(happens(net), right[arguments])}
        printed = row.pop("printed")
        print(row, flush=True)
        record.save(RESULTS, [*(r for r in record.earlier(RESULTS) if r["break"] != name), row])
    return printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BREAKS)
    only = parser.parse_args().only
    if missing():
        sys.exit(missing())
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    try:
        with lan(("head", "one", "two"), work / "lan") as net:
            start_cluster(net)
            printed = broken([only] if only else list(BREAKS), net, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if only:
        print("\n".join(printed))


if __name__ == "__main__":
    main()
