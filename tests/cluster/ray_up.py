"""A cluster of three hosts by `ray up` with the file that we ship for machines of one's own, a
sweep on it by `ray job submit`, what a stranger finds open, and `ray down`.

`python -m tests.cluster.ray_up` runs it and writes `benchmarks/results/cluster.json`: seconds of
each step, the ports that a stranger found and what they said to him, and whether the losses are
those of the same sweep in one process. The file is `clusters/on_premises.yaml` with the hosts'
addresses in it and without the installation: the hosts share this machine's Python. Left out:
clouds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks import record
from tests.cluster.hosts import ENVIRONMENT, Host, Lan, lan, missing
from tests.conftest import REPOSITORY

HOSTS = ("laptop", "head", "one", "two", "stranger")
SWEEP = (
    "--sizes laptop-xs --densities 0.25 1 --unique-tokens 50000 --epochs 1 2 --seeds 0 1 --slots 2 --search "
    "--no-training"
)
JOB = "http://127.0.0.1:8265"


def configuration(net: Lan) -> dict[str, Any]:
    """`clusters/on_premises.yaml` for these hosts."""
    file = yaml.safe_load((REPOSITORY / "clusters/on_premises.yaml").read_text())
    file["provider"] |= {"head_ip": net["head"].address, "worker_ips": [net["one"].address, net["two"].address]}
    file["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    remember = [line for line in file["setup_commands"] if ".bashrc" in line]
    known = " ".join(f"{name}={value}" for name, value in (ENVIRONMENT | {"PYTHONPATH": "~/checkout"}).items())
    remember += [f"echo 'export {known}' >> ~/.bashrc"]  # ssh brings no environment
    file["setup_commands"] = [f"ln -sfn {sys.prefix} ~/checkout/.venv", *remember]
    file["file_mounts"]["~/checkout"] = str(REPOSITORY)
    return file


class Steps:
    """Does one thing after another and keeps how long each took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        found = work()
        self.seconds[name] = round(time.monotonic() - began, 1)
        print(f"{self.seconds[name]:7.1f} s  {name}", flush=True)
        return found


def nodes(head: Host) -> int:
    """How many nodes the head's Ray counts."""
    said = head.run("RAY_AUTH_MODE=token ray list nodes --filter state=ALIVE --format json", check=False).stdout
    return len(json.loads(said[said.index("[") :])) if "[" in said else 0


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    last = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > last:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(1)


def up(net: Lan) -> None:
    """The token, the file, `ray up`, and all three nodes."""
    laptop = net["laptop"]
    laptop.run("RAY_AUTH_MODE=token ray get-auth-token --generate")
    (net.work / "shared/cluster.yaml").write_text(yaml.safe_dump(configuration(net)))
    laptop.run(f"ray up -y {net.work}/shared/cluster.yaml", timeout=600)
    until(lambda: nodes(net["head"]) == 3, seconds=600, what="three nodes")


def submit(net: Lan, name: str, arguments: str) -> str:
    """A sweep by `ray job submit`, to its end; what it printed."""
    where = f"--address auto --storage {net.work}/shared --name {name}"
    script = f"cd ~/checkout && .venv/bin/python sweeps/grid.py {where} {arguments}"
    job = f"RAY_AUTH_MODE=token ray job submit --address {JOB} -- bash -c '{script}'"
    return net["head"].run(job, timeout=1800).stdout


def losses(storage: Path, name: str) -> dict[str, float]:
    table = pq.read_table(storage / name / "results.parquet").to_pydict()
    return dict(zip(table["trial_id"], table["validation_loss"], strict=True))


def down(net: Lan) -> None:
    """`ray down`, until no process of Ray is left on any host. Ray stops the head; a raylet that
    has not heard of it for a minute ends by itself.
    """
    net["laptop"].run(f"ray down -y {net.work}/shared/cluster.yaml", timeout=300)
    until(lambda: not any(map(processes_of_ray, net.hosts.values())), seconds=600, what="the last process of Ray")


def processes_of_ray(host: Host) -> list[str]:
    said = host.run("ps -eo args").stdout.splitlines()
    return [line for line in said if any(word in line for word in ("raylet", "gcs_server", "ray::", "dashboard"))]


def scanned(net: Lan) -> dict[str, dict[str, str]]:
    """Host -> port -> what it said to a stranger without a token."""
    asked = Path(__file__).with_name("stranger.py")
    names = ("head", "one", "two")
    return {name: json.loads(net["stranger"].run(f"python {asked} {name}", timeout=300).stdout) for name in names}


def alone(work: Path) -> dict[str, float]:
    """The losses of the same sweep in one process on this machine."""
    grid = [sys.executable, str(REPOSITORY / "sweeps/grid.py"), "--executor", "inline", *SWEEP.split()]
    subprocess.run([*grid, "--storage", str(work), "--name", "alone"], check=True, capture_output=True)
    return losses(work, "alone")


def happy_path(work: Path) -> dict[str, Any]:
    """Up, a sweep, a scan, down; what it took and what was found."""
    step = Steps()
    with lan(HOSTS, work / "lan") as net:
        step("ray up, three nodes", lambda: up(net))
        step("a sweep by ray job submit", lambda: submit(net, "first", SWEEP))
        step("the same again: nothing to do", lambda: submit(net, "first", SWEEP))
        ports = step("a stranger's scan of three hosts", lambda: scanned(net))
        step("ray down, until nothing of Ray is left", lambda: down(net))
        there = losses(net.work / "shared", "first")
        hosts = sorted(set(pq.read_table(net.work / "shared/first/results.parquet")["host"].to_pylist()))
    return {
        "seconds": step.seconds, "trials": len(there), "losses_equal_inline": there == alone(work), "hosts": hosts,
        "ports": ports,
    }  # fmt: skip


def main() -> None:
    reason = missing()
    if reason:
        raise SystemExit(reason)
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    try:
        found = happy_path(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    record.save("cluster", [found])
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
