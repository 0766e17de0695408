"""The processes of a sweep on Ray, by what they are, and those that carry a mark."""

from __future__ import annotations

from pathlib import Path

from tests.sweep import runs

# what -> a part of the command line of such a process
KINDS = {
    "raylet": "raylet/raylet ",
    "gcs": "gcs/gcs_server ",
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "broker": "ray::BrokerActor",
    "tune": "ray::ImplicitFunc",
}


def of(driver: int, kind: str) -> list[int]:
    """The processes under a driver that are of a kind, oldest first."""
    return sorted(pid for pid, name in runs.descendants(driver).items() if KINDS[kind] in name)


def marked(mark: str) -> dict[int, str]:
    """Living processes with `mark` (NAME=value) in the environment that they began with."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            carries = mark.encode() in (entry / "environ").read_bytes().split(b"\0")
            is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if carries and not is_dead:
            found[int(entry.name)] = name
    return found
