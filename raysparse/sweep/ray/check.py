"""What every node of a cluster says before a sweep spends anything on it: a task per node.

A sweep that meets a bad node meets it late: workers that wait for each other at 127.0.0.1, trials
that find no tokens because the storage is the head's own disk, rows from another torch. Each task
reads what the driver wrote into the storage, writes something back, and says what it runs on; the
driver compares. Only what would stop or falsify a sweep has a remedy. Left out: repairing, and how
fast anything is.
"""

from __future__ import annotations

import importlib.metadata
import ipaddress
import os
import platform
import secrets
import socket
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysparse.checkout import git_commit
from raysparse.files import Folder
from raysparse.sweep.ray.group import interface_of

ANSWER = 60.0  # seconds for all nodes to say how they are
SKEW = 5.0  # seconds between clocks, beyond which leases and locks of a minute become unsafe
SHARED_MEMORY = 256 << 20  # bytes of /dev/shm that Ray and torch need
PACKAGES = ("ray", "torch", "raysparse")

Finding = tuple[str, str, str]  # what, found, remedy (empty when all is well)


def refuse_unfit(storage: Folder) -> None:
    """Raise ValueError with every node's trouble and its remedy, where there is any."""
    troubles = [
        f"{node}: {what}: {found}; {remedy}"
        for node, findings in nodes(storage)
        for what, found, remedy in findings
        if remedy
    ]
    if troubles:
        raise ValueError("the cluster is not fit for a sweep:\n  " + "\n  ".join(troubles))


def nodes(storage: Folder) -> list[tuple[str, list[Finding]]]:
    """What the nodes of the cluster that this process has joined found, the driver's versions being
    those that are expected.
    """
    living = _living()
    mark = f".check-{secrets.token_hex(4)}"
    here = versions()
    try:
        storage.write(mark, b"driver")
    except OSError as error:
        return [("driver", [("storage", f"{storage.uri}: {error}", "let this machine write there, or change it")])]
    asked_at = time.time()
    answers = [_asked(node, storage, mark) for node in living]
    ray.wait(answers, num_returns=len(answers), timeout=ANSWER)
    between = asked_at, time.time()
    still = {node["NodeID"] for node in _living()}

    def findings(node_id: str, answer: Any) -> list[Finding]:
        if node_id not in still:
            return [("answer", "it has left the cluster", "")]
        found = _heard(answer)
        if isinstance(found, tuple):
            return [found]
        return judged(found, storage, f"{mark}-{node_id}", here=here, between=between, count=len(living))

    try:
        return [
            (f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", findings(node["NodeID"], answer))
            for node, answer in zip(living, answers, strict=True)
        ]
    finally:
        for name in [mark, *(f"{mark}-{node['NodeID']}" for node in living)]:
            storage.delete(name)


def _living() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _asked(node: dict[str, Any], storage: Folder, mark: str) -> Any:
    """The answer to come of one node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    look: Any = ray.remote(num_cpus=0, max_retries=0)(facts)
    return look.options(scheduling_strategy=there).remote(storage.uri, mark, node["NodeID"], node["NodeManagerAddress"])


def versions() -> dict[str, str]:
    """Of what must be alike on all nodes."""
    found = {"Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    return found | {"commit": git_commit()[:12] or "unknown"}


def facts(storage: str, mark: str, node_id: str, address: str) -> dict[str, Any]:
    """What one node says of itself; run as a task there."""
    import torch

    found: dict[str, Any] = {"versions": versions(), "clock": time.time(), "storage": ""}
    try:
        folder = Folder(storage)
        folder.read(mark)
        folder.write(f"{mark}-{node_id}", b"node")
    except (OSError, ValueError) as error:
        found["storage"] = f"{type(error).__name__}: {error}"
    memory = os.statvfs("/dev/shm")
    found["shared_memory"] = memory.f_frsize * memory.f_blocks
    try:
        found["resolved"] = socket.gethostbyname(platform.node())
    except OSError:
        found["resolved"] = ""
    found |= {"address": address, "interface": interface_of(address)}
    found["gloo"] = os.environ.get("GLOO_SOCKET_IFNAME", "")
    found["gpus"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return found


def _heard(answer: Any) -> dict[str, Any] | Finding:
    """The facts that a node's task gave, or why there are none."""
    try:
        found: dict[str, Any] = ray.get(answer, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return "answer", f"none in {ANSWER:g} s", "look at this node's Ray logs, or take it out of the cluster"
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        return "answer", last, "install the same Python, Ray and raysparse on it, or take it out"
    return found


def judged(
    found: dict[str, Any],
    storage: Folder,
    written: str,
    *,
    here: dict[str, str],
    between: tuple[float, float],
    count: int,
) -> list[Finding]:
    """What the facts of one node of `count` mean for a sweep.

    `written`: the file that it should have left in the storage. `here`: the driver's versions.
    `between`: when the driver asked, and when it had all answers, by its own clock.
    """
    return [
        _stored(found["storage"], storage, written),
        *_alike(found["versions"], here),
        _clock(min(0.0, found["clock"] - between[0]) + max(0.0, found["clock"] - between[1])),
        _shared_memory(found["shared_memory"]),
        _address(found, count),
        ("GPUs", ", ".join(found["gpus"]) or "none", ""),
    ]


def _stored(cause: str, storage: Folder, written: str) -> Finding:
    if not cause and storage.exists(written):
        return "storage", f"{storage.uri} is read and written", ""
    cause = cause or "what it wrote is not seen from here"
    remedy = (
        "this folder is on one machine's disk: give --storage an object store or a shared file system"
        if storage.is_local
        else "give its machine a role that may read and write there, or the driver AWS_* variables"
    )
    return "storage", f"{storage.uri}: {cause}", remedy


def _alike(there: dict[str, str], here: dict[str, str]) -> list[Finding]:
    other = {name: value for name, value in there.items() if value != here[name]}
    if not other:
        return [("versions", ", ".join(f"{name} {value}" for name, value in there.items()), "")]
    return [
        (name, f"{value} there, {here[name]} at the driver", "install the same on all nodes")
        for name, value in other.items()
    ]


def _clock(ahead: float) -> Finding:
    return "clock", f"{ahead:+.1f} s from the driver's", "" if abs(ahead) <= SKEW else "set it by NTP (chrony)"


def _shared_memory(size: int) -> Finding:
    found = f"{size / 2**20:.0f} MiB of /dev/shm"
    return "shared memory", found, "" if size >= SHARED_MEMORY else "enlarge it (--shm-size of a container)"


def _address(found: dict[str, Any], count: int) -> Finding:
    """Workers meet at the node's own address, through the interface that has it (`group.join`); the
    address of the host's name matters only where no interface is found.
    """
    resolved, interface, address = found["resolved"], found["interface"], found["address"]
    if count > 1 and ipaddress.ip_address(address).is_loopback:
        remedy = "start Ray on it with --node-ip-address=ITS_ADDRESS, one that the other nodes reach"
        return "address", f"Ray has it at {address}, where no other node reaches it", remedy
    if interface or found["gloo"] or count == 1:
        return "address", f"{address}, interface {found['gloo'] or interface or 'unknown'}", ""
    if resolved and not ipaddress.ip_address(resolved).is_loopback:
        return "address", f"{address}, its name resolves to {resolved}", ""
    remedy = "name its interface: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME in the environment in which Ray is started"
    return "address", f"no interface has {address}, and its name resolves to {resolved or 'nothing'}", remedy
