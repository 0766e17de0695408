"""Ray on hosts without `ray up`, a sweep on it that can be watched from outside, and the same sweep
in one process to compare with.

Every checkpoint's file has the lease in its name under which it was written, so what a side that
was cut off writes too late can be told from what its successor writes.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raysparse.sweep import lease
from tests.cluster.hosts import Host, Lan
from tests.conftest import REPOSITORY

GRID = "--sizes laptop-xs --unique-tokens 50000 --search --no-training --checkpoint-seconds 1"
PORT = 6379
TOKEN = "export RAY_AUTH_MODE=token"
LIMIT = 1200.0  # seconds for a sweep, on a machine that has other things to do
MARGIN = 5.0  # seconds after the end of a lease in which a write that was let through may still appear


def start_ray(host: Host, command: str, environment: str = "") -> None:
    """Ray on a host, in place of one that may be there, for those who know the token only.
    `environment`: NAME=VALUE words.
    """
    host.run("mkdir -p ~/.ray && echo 0123456789abcdef0123456789abcdef0123456789abcdef > ~/.ray/auth_token")
    start = f"ray start {command} --disable-usage-stats --object-store-memory 100000000"
    for tries_left in (2, 1, 0):  # Ray gives up after half a minute, which a busy machine may take
        host.run("ray stop --force", timeout=300)
        if not host.run(f"{TOKEN} {environment}; {start}", timeout=300, check=not tries_left).returncode:
            return


def start_worker(host: Host) -> None:
    """A node of one CPU."""
    start_ray(host, f"--address=head:{PORT} --num-cpus=1")


class Sweep:
    """The grid script on the head, in the background."""

    def __init__(self, net: Lan, name: str, arguments: str, storage: str = ""):
        self.folder = net.work / "shared" / name
        where = f"--address auto --storage {storage or net.work / 'shared'} --name {name}"
        self.log = net.work / f"{name}.log"
        self.seen: dict[tuple[str, str], float] = {}  # (trial, checkpoint) -> when it was seen first
        python = f"env RAY_AUTH_MODE=token {sys.executable} {REPOSITORY}/sweeps/grid.py"
        self.began = time.monotonic()
        self.process = net["head"].start(f"{python} {where} {arguments}", self.log)

    def rows(self) -> set[str]:
        """The trials that have a row."""
        return {path.stem for path in self.folder.glob("journal/*.json")}

    def in_training(self) -> list[Path]:
        """The pointers to the last checkpoints of trials that have one, and no row."""
        rows = self.rows()
        return [path for path in self.folder.glob("trials/*/checkpoint/latest.json") if path.parts[-3] not in rows]

    def unsaved(self) -> float:
        """Seconds that would be lost now: since the last checkpoint, the oldest of all trials."""
        return round(max(time.time() - path.stat().st_mtime for path in self.in_training()), 1)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        while not condition():
            if self.process.poll() is not None or time.monotonic() - self.began > LIMIT:
                raise AssertionError(f"no {what}:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def follow(self, seconds: float) -> None:
        """Note when each checkpoint is seen first, for so long or to the end of the sweep."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            for path in self.folder.glob("trials/*/checkpoint/*.pt"):
                self.seen.setdefault((path.parts[-3], path.name), time.monotonic())
            time.sleep(0.1)

    def superseded(self, since: float) -> tuple[int, int]:
        """Checkpoints under a lease that another one has followed, seen since then (by the
        monotonic clock): within the time of a lease, and later.
        """
        last: dict[str, int] = {}
        for trial, name in self.seen:
            last[trial] = max(last.get(trial, 0), lease_of(name))
        times = [seen for (trial, name), seen in self.seen.items() if lease_of(name) < last[trial] and seen > since]
        late = sum(seen > since + lease.SECONDS + MARGIN for seen in times)
        return len(times) - late, late

    def end(self) -> dict[str, Any]:
        """How it ended: exit status, rows, and losses by trial."""
        try:
            status = self.process.wait(max(1.0, LIMIT - (time.monotonic() - self.began)))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end:\n{self.log.read_text()[-3000:]}") from None
        table = self.folder / "results.parquet"
        rows = pq.read_table(table).to_pydict() if table.exists() else {"trial_id": [], "validation_loss": []}
        return {
            "exit_status": status, "seconds": round(time.monotonic() - self.began),
            "rows": len(rows["trial_id"]), "statuses": sorted(set(rows.get("status", []))),
            "hosts": sorted(set(rows.get("host", []))), "workers": sorted(set(rows.get("workers", []))),
            "losses": dict(zip(rows["trial_id"], rows["validation_loss"], strict=True)),
            "printed": self.log.read_text().splitlines(),
        }  # fmt: skip


def lease_of(name: str) -> int:
    """The number of the lease in the name of a checkpoint, step-00000120-LEASE-1a2b3c.pt."""
    return int(name.split("-")[-2])


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
