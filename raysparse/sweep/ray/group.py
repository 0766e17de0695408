"""How a slot gets its workers: one resident Ray Train run, as lean as Ray lets it be, and a process
group among them.

Ray's defaults cost 1.1 GB of the head's memory a slot, which is what bounds the number of slots
(docs/experiments.md). `TorchConfig` loads torch into the controller of each run; the backend here
names no torch until it is in a worker. Helper processes of each run have nothing to do here: one
for data sets (there are none), one that removes the placement group of a controller that was killed
(the slot does, the broker knows which), one that looks for machines that leave (the broker does).

When the workers of a group cannot find each other, Ray forgets the group while its placement group
stays taken, so the next try waits for ever for what the first one holds. The backend ends the group
before it says what went wrong. Left out: what a worker does (`worker`), and when to start (`slot`).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train.backend import Backend, BackendConfig
from ray.train.torch import TorchTrainer

TIMEOUT = 1800.0  # seconds for one exchange between ranks; an evaluation of a large model is slow
SHUTDOWN_TIMEOUT = 5.0
IDLE_HELPERS = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # of Ray Train


class GroupTrainer(TorchTrainer):
    """Ray Train without the helpers that nothing here asks."""

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # the types are of the older class
        return [callback for callback in made if type(callback).__name__ not in IDLE_HELPERS]


@dataclass
class TorchGroup(BackendConfig):
    """torch.distributed among the workers of a slot: NCCL between GPUs, gloo between CPUs."""

    broker: ActorHandle[Any]
    slot: str

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
            backend = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo"
            count = len(worker_group)
            ray.get([worker_group.execute_single_async(n, join, address, backend, n, count) for n in range(count)])
        except Exception:
            worker_group.shutdown()
            raise

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        ray.wait(worker_group.execute_async(leave), num_returns=len(worker_group), timeout=SHUTDOWN_TIMEOUT)


def free_address() -> str:
    """HOST:PORT at which the ranks can meet this worker."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def join(address: str, backend: str, rank: int, count: int) -> None:
    """Make this worker a rank of its group's process group."""
    import torch.distributed as dist

    dist.init_process_group(
        backend, init_method=f"tcp://{address}", rank=rank, world_size=count, timeout=timedelta(seconds=TIMEOUT)
    )


def leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
