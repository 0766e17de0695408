"""Start or join a Ray cluster, quietly, and say what it has room for.

Ray's own output is turned down where it is made - levels, verbosity, no copying of worker logs to
this terminal - not filtered afterwards, and nothing that fails is hidden: errors of trials come
back as rows, errors of Ray as exceptions, and the logs stay where Ray writes them. Without an
address a cluster is always started anew, so a stale one of somebody else is never joined by
accident.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raysparse.placement import Placement
from raysparse.sweep import leftovers
from raysparse.sweep.ray import environment, private
from raysparse.sweep.ray.panels import Panels
from raysparse.sweep.settings import RayLostError, Settings
from raysparse.units import si

CONNECT_TIMEOUT = 10.0  # seconds
ANSWER_TIMEOUT = 5.0
SETTINGS_FRAME = 4
SOCKET_PATH = 107  # bytes
SESSION_PATH = len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store") + 2
OBJECT_STORE_BYTES = 256 << 20  # leases and reports are small
HEAD = "node:__internal_head__"  # a resource that Ray gives its head
LATE = "timed out during startup"  # what Ray says of its raylet on a machine that is too busy
SLOT_BYTES = 600 << 20  # of the driver's machine, for the processes of Ray that serve a slot (docs/experiments.md)


@dataclass(frozen=True)
class Place:
    """What a cluster offers: trials at once, lines that tell where to look, and the page of gauges
    for its dashboard.
    """

    slots: int
    links: tuple[str, ...]
    panels: Panels | None = None


@contextlib.contextmanager
def joined(settings: Settings, placement: Placement, owner: str, is_sweep: bool = True) -> Iterator[Place]:
    """A connection to a cluster; one that was started here, for `owner`, ends with it. A sweep has
    gauges to show.

    Raises ValueError when there is no cluster at the address, or when it has no room for one trial,
    and RayLostError when what is done with it fails because the cluster, or the broker, is gone.
    """
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    panels = Panels.of_a_new_ray() if settings.dashboard and not settings.address else None
    try:
        with leftovers.marked(owner), _also(panels.environment if panels else {}):
            _start(settings, placement)
        if is_sweep and settings.address and _on_its_head():
            panels = Panels.of_a_cluster()
        slots, why = bounded(_slots(settings, placement), settings.slots, free_memory())
        yield Place(slots, (*why, *_links(), *([panels.told] if panels else ())), panels)
    except Exception as error:
        if cause := _death(error):
            if not settings.address:
                leftovers.end_all(owner)  # before Ray's own end, which would wait for what answers no more
            raise RayLostError(f"Ray {settings.address or 'on this machine'} was lost ({cause})") from error
        raise
    finally:
        ray.shutdown()
        if not settings.address:
            leftovers.end_all(owner)
        if panels:
            panels.close()


@contextlib.contextmanager
def _also(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started inside the `with` have these variables too."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def check() -> None:
    """Raise RayLostError when the Ray that was started here has lost one of its processes; those
    that wait for it would wait for long.
    """
    if gone := private.ended():
        raise RayLostError(f"its {' and its '.join(gone)} ended")


def _death(error: Exception) -> str:
    """How Ray itself came to its end, when that is what an error means."""
    if gone := private.ended():
        return f"its {' and its '.join(gone)} ended"
    if LATE in str(error):
        return "it was not up within half a minute"
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):  # not what our own code raised in it
        return str(error).strip().splitlines()[0]
    return ""


def _start(settings: Settings, placement: Placement) -> None:
    if settings.address:
        _knock(settings.address)
        try:
            ray.init(
                address=settings.address, logging_level=logging.ERROR, log_to_driver=False,
                runtime_env=_runtime_env(),
            )  # fmt: skip
        except ConnectionError as error:
            raise _nobody(settings.address, str(error).strip().splitlines()[0]) from error
        except RuntimeError as error:
            if "Version mismatch" not in str(error):
                raise
            said = " ".join(str(error).split())
            raise ValueError(
                f"the cluster at {settings.address!r} cannot be joined: {said}; install the same"
            ) from error
    else:
        _check_temporary_folder()
        cpus = len(os.sched_getaffinity(0))
        needed = max(1, settings.slots) * placement.workers * placement.threads
        ray.init(
            address="local",
            num_cpus=max(cpus, needed),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=None if settings.dashboard else False,  # None: one that fails to start is no error
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        private.without_last_words()


def _on_its_head() -> bool:
    """Whether this machine is the head of the cluster that was joined."""
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["NodeID"] == here and HEAD in node["Resources"] for node in nodes)


def _runtime_env() -> dict[str, dict[str, str]] | None:
    """The storage's credentials for the workers, but those that a submitted job has brought."""
    given = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env", {}).get("env_vars", {})
    missing = {name: value for name, value in environment.for_workers().items() if name not in given}
    return {"env_vars": missing} if missing else None


def _knock(address: str) -> None:
    """Raise ValueError when nobody listens at host:port; Ray itself would ask for minutes."""
    if address.startswith("ray://"):
        raise ValueError(
            f"--address {address!r} is Ray Client's, which cannot run Ray Train; run this on the head node with "
            f"--address auto"
        )
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--address is {address!r}, expected HOST:PORT (Ray's is 6379), auto or local")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT) as line:
            if not os.environ.get("RAY_USE_TLS") and not _speaks_http2(line):
                raise _nobody(address, "something else listens there")
    except OSError as error:
        raise _nobody(address, str(error)) from error


def _speaks_http2(line: socket.socket) -> bool:
    """Whether the other side answers as a gRPC server must: to the connection preface of HTTP/2
    with a SETTINGS frame (RFC 9113, section 3.4).
    """
    line.settimeout(ANSWER_TIMEOUT)
    line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS_FRAME, 0, 0, 0, 0, 0)))
    try:
        head = line.recv(9)
    except TimeoutError:
        return False
    return len(head) > 3 and head[3] == SETTINGS_FRAME


def _check_temporary_folder() -> None:
    """Ray's sockets lie under its temporary folder, and a socket's path has at most 107 bytes."""
    place = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(place.encode()) > SOCKET_PATH - SESSION_PATH:
        raise ValueError(
            f"TMPDIR is {place!r}, too long for the sockets of Ray (at most {SOCKET_PATH - SESSION_PATH} bytes); set "
            f"RAY_TMPDIR=/tmp, or use --executor inline"
        )


def _nobody(address: str, cause: str) -> ValueError:
    return ValueError(
        f"no Ray cluster answers at {address!r} ({cause}); check --address and RAY_ADDRESS, or leave both out "
        f"to start one"
    )


def _slots(settings: Settings, placement: Placement) -> int:
    if settings.address and settings.slots:
        return settings.slots  # an autoscaling cluster grows to what it is asked for
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = settings.min_workers or placement.workers
    fits = int(has.get("CPU", 0) // (workers * placement.threads))
    if settings.gpus:
        fits = min(fits, int(has.get("GPU", 0) / settings.gpus // workers))
    if fits < 1:
        raise ValueError(
            f"a trial needs {workers} workers of {placement.threads} CPUs and {settings.gpus:g} GPUs, "
            f"the cluster has "
            f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs; lower --workers or --gpus, join a "
            f"larger cluster, or name --slots where an autoscaler starts machines"
        )
    return min(settings.slots or fits, fits)


def bounded(fits: int, asked: int, free: float) -> tuple[int, tuple[str, ...]]:
    """As many slots as this machine's free memory (bytes) serves, and a line that says so where it
    is fewer than fit elsewhere. Raises ValueError when more were asked for.
    """
    most = max(1, int(free // SLOT_BYTES))
    if fits <= most:
        return fits, ()
    found = f"Ray takes {si(SLOT_BYTES, 'B')} of this machine's memory for each slot and {si(free, 'B')} are free"
    if asked > most:
        raise ValueError(f"--slots is {asked}, but {found}: at most {most}; lower --slots or take a larger head")
    return most, (f"{most} slots, not {fits}: {found}",)


def free_memory() -> float:
    """Bytes that this machine can still give; infinite where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    found = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return math.inf if found is None else 1024.0 * int(found)


def _links() -> tuple[str, ...]:
    context = ray.get_runtime_context()
    logs = f"logs of Ray: {context.get_session_dir()}/logs" if hasattr(context, "get_session_dir") else ""
    url = ray.worker.global_worker.node.webui_url if ray.worker.global_worker.node else ""
    signs_in = " (it asks for what `ray get-auth-token` prints)" if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    return tuple(line for line in (f"dashboard: http://{url}{signs_in}" if url else "", logs) if line)
