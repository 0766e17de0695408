"""How the workers of a slot find each other: a process group of torch.distributed.

Ray's own `TorchConfig` loads torch into the controller of every run, half of what a slot takes of
the head's memory (docs/experiments.md); here nothing names torch until it is in a worker. And when
workers cannot find each other, Ray forgets the group while its placement group stays taken, so the
next try waits for ever for what the first one holds; here the group is ended before the error is
passed on. Workers leave their group themselves when nothing is left to do (`worker`): ended from
here, under a trial, each would go on as if it were the only one until Ray ends its process. Left
out: when to start a group (`slot`), and what a worker does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train.backend import Backend, BackendConfig

TIMEOUT = 1800.0  # seconds for one exchange between ranks; an evaluation of a large model is slow
SIOCGIFADDR = 0x8915  # Linux's question for the address of an interface


@dataclass
class TorchGroup(BackendConfig):
    """torch.distributed among the workers of a slot: NCCL between GPUs, gloo between CPUs. It names
    no `framework` to Ray, whose state tracking would send torch's version to the head as an object
    of torch, and two processes there would load torch to read it.
    """

    broker: ActorHandle[Any]
    slot: str
    backend: str  # nccl, gloo

    @property
    def backend_cls(self) -> type[Backend]:
        return TorchBackend

    @property
    def train_func_context(self) -> type[OnItsDevice]:
        return OnItsDevice


class OnItsDevice:
    """Inside the `with`, a worker's own GPU is the current one, where it has one."""

    def __enter__(self) -> None:
        import torch
        from ray.train.torch import get_device

        if torch.cuda.is_available() and get_device().type == "cuda":
            torch.cuda.set_device(get_device())

    def __exit__(self, *_: object) -> None: ...


class TorchBackend(Backend):
    """Runs in the controller; what it calls `execute` with runs in a worker."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, TorchGroup)
        taken = worker_group.get_worker_group_state().placement_group_handle.placement_group
        ray.get(backend_config.broker.placed.remote(backend_config.slot, taken))
        try:
            address = worker_group.execute_single(0, free_address)
            how, count = backend_config.backend, len(worker_group)
            ray.get([worker_group.execute_single_async(n, join, address, how, n, count) for n in range(count)])
        except Exception:
            worker_group.shutdown()
            raise


def free_address() -> str:
    """HOST:PORT at which the ranks can meet this worker."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def join(address: str, backend: str, rank: int, count: int) -> None:
    """Make this worker a rank of its group's process group, through the network that Ray uses:
    gloo would take the one that the host's own name means, which may be the loopback.
    """
    from raysparse.train import ranks

    interface = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if interface else ():
        os.environ.setdefault(name, interface)
    ranks.join(backend, f"tcp://{address}", rank, count, timedelta(seconds=TIMEOUT))


def interface_of(address: str) -> str:
    """The network interface that has this IPv4 address; empty where none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # an interface without an address
                found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""
