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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import record
from tests.cluster.hosts import Host, Lan, lan, missing
from tests.conftest import REPOSITORY

GRID = "--sizes laptop-xs --unique-tokens 50000 --search --no-training --checkpoint-seconds 1"
MANY = f"{GRID} --densities 0.25 1 --epochs 10 --seeds 0 1"
LONG = f"{GRID} --densities 0.25 --epochs 30 --seeds 0"
PORT = 6379
TOKEN = "export RAY_AUTH_MODE=token"
LIMIT = 900.0  # seconds for a sweep


def start_ray(host: Host, command: str) -> None:
    """Ray on a host, for those who know the token only."""
    host.run("mkdir -p ~/.ray && echo 0123456789abcdef0123456789abcdef0123456789abcdef > ~/.ray/auth_token")
    host.run(f"{TOKEN}; ray start {command} --disable-usage-stats --object-store-memory 100000000", timeout=240)


def start_worker(host: Host) -> None:
    start_ray(host, f"--address=head:{PORT} --num-cpus=1")


def start_cluster(net: Lan) -> None:
    start_ray(net["head"], f"--head --port={PORT} --num-cpus=0")
    for name in ("one", "two"):
        start_worker(net[name])


class Sweep:
    """The grid script on the head, in the background."""

    def __init__(self, net: Lan, name: str, arguments: str, storage: str = ""):
        self.folder = net.work / "shared" / name
        where = f"--address auto --storage {storage or net.work / 'shared'} --name {name}"
        self.log = net.work / f"{name}.log"
        python = f"env RAY_AUTH_MODE=token {sys.executable} {REPOSITORY}/sweeps/grid.py"
        self.began = time.monotonic()
        self.process = net["head"].start(f"{python} {where} {arguments}", self.log)

    def rows(self) -> int:
        journal = self.folder / "journal"
        return len(list(journal.glob("*.json"))) if journal.is_dir() else 0

    def steps(self) -> int:
        """Trials that have a checkpoint: they are being trained, or were."""
        return len(list(self.folder.glob("trials/*/checkpoint/latest.json")))

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            if self.process.poll() is not None or time.monotonic() - self.began > LIMIT:
                raise AssertionError(f"no {what}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def end(self) -> dict[str, Any]:
        """How it ended: exit status, rows, and losses by trial."""
        status = self.process.wait(LIMIT)
        table = self.folder / "results.parquet"
        rows = pq.read_table(table).to_pydict() if table.exists() else {"trial_id": [], "validation_loss": []}
        return {
            "exit_status": status, "seconds": round(time.monotonic() - self.began),
            "rows": len(rows["trial_id"]), "statuses": sorted(set(rows.get("status", []))),
            "losses": dict(zip(rows["trial_id"], rows["validation_loss"], strict=True)),
            "printed": self.log.read_text().splitlines(),
        }  # fmt: skip


def goes_away(net: Lan) -> dict[str, Any]:
    """A machine is switched off in the middle of a trial and does not come back."""
    sweep = Sweep(net, "goes-away", MANY)
    sweep.wait_for(lambda: sweep.rows() >= 1 and sweep.steps() > sweep.rows() + 1, "two trials in training")
    net["one"].switch_off()
    return sweep.end()


def cut_off(net: Lan) -> dict[str, Any]:
    """A machine loses its network in the middle of a trial and comes back after a minute and a
    half: what it trained meanwhile must not count, though it still sees the storage.
    """
    sweep = Sweep(net, "cut-off", MANY)
    sweep.wait_for(lambda: sweep.rows() >= 1 and sweep.steps() > sweep.rows() + 1, "two trials in training")
    net["two"].unplug()
    time.sleep(90)
    net["two"].plug()
    return sweep.end()


def two_machines_one_lost(net: Lan) -> dict[str, Any]:
    """A trial on two machines loses one of them, which comes back."""
    sweep = Sweep(net, "two-machines", f"{LONG} --workers 2")
    sweep.wait_for(lambda: sweep.steps() >= 1, "a checkpoint")
    net["one"].switch_off()
    time.sleep(20)
    net.again("one")
    start_worker(net["one"])
    return sweep.end()


def wrong_name(net: Lan) -> dict[str, Any]:
    """Hosts whose own name means 127.0.0.1, as some distributions install it; a trial on two of
    them.
    """
    for name in ("one", "two"):
        net[name].run(
            f"sed 's/.* {name}$/127.0.1.1 {name}/' /etc/hosts > /tmp/hosts; mount --bind /tmp/hosts /etc/hosts"
        )
    try:
        return Sweep(net, "wrong-name", f"{LONG} --workers 2").end()
    finally:
        for name in ("one", "two"):
            net[name].run("umount /etc/hosts")


def local_storage(net: Lan) -> dict[str, Any]:
    """A storage that is another folder on each machine."""
    return Sweep(net, "local-storage", MANY, storage="/root/runs").end()


BREAKS = {
    "local storage": local_storage, "wrong name": wrong_name, "cut off": cut_off,
    "two machines, one lost": two_machines_one_lost, "goes away": goes_away,
}  # fmt: skip


def alone(work: Path, arguments: str) -> dict[str, float]:
    """The losses of a sweep in one process on this machine."""
    name = f"alone-{len(list(work.glob('alone-*')))}"
    grid = [sys.executable, str(REPOSITORY / "sweeps/grid.py"), "--executor", "inline", *arguments.split()]
    subprocess.run([*grid, "--storage", str(work), "--name", name], check=True, capture_output=True)
    table = pq.read_table(work / name / "results.parquet").to_pydict()
    return dict(zip(table["trial_id"], table["validation_loss"], strict=True))


def judged(found: dict[str, Any], right: dict[str, float]) -> dict[str, Any]:
    """A row without single losses: how many are the right ones, and the largest difference."""
    losses = found.pop("losses")
    apart = [abs(losses[key] - right[key]) for key in right if losses.get(key) is not None]
    return {
        **found, "planned": len(right), "bit_for_bit": sum(not gap for gap in apart),
        "largest_difference": max(apart, default=None),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BREAKS)
    only = parser.parse_args().only
    if missing():
        raise SystemExit(missing())
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    rows = []
    try:
        right = {arguments: alone(work, arguments) for arguments in (MANY, LONG)}
        with lan(("head", "one", "two"), work / "lan") as net:
            start_cluster(net)
            for name in [only] if only else BREAKS:
                found = BREAKS[name](net)
                arguments = LONG if name in ("wrong name", "two machines, one lost") else MANY
                rows.append({"break": name, **judged(found, right[arguments])})
                print({key: value for key, value in rows[-1].items() if key != "printed"}, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    printed = [row.pop("printed") for row in rows]
    if only:
        print("\n".join(printed[0]))
    else:
        record.save("cluster_breaks", rows)


if __name__ == "__main__":
    main()
