"""Run a sweep on Ray: Tune runs the trials, Train runs the workers, a small broker actor stands
between them.

A *fleet* of slots, each one resident Ray Train run of W workers that serves trial after trial
(`worker`), instead of a Train run per trial, whose start costs more than a small trial
(docs/experiments.md has the numbers). A Tune trial is a driver without a CPU that submits its spec
to the broker and relays the reports, so Tune's searchers and schedulers and Ray's dashboard see
every trial, and a scheduler that stops one stops it in its worker.

Ray is transport: nothing here is needed to continue. When the driver dies, its local cluster dies
with it (the kernel ends Ray's processes with their parent), and the next run reads the run folder.
Left out: the rules (`broker`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import train
from ray.actor import ActorHandle
from ray.train.torch import TorchTrainer

from raysparse.sweep.attempt import attempt
from raysparse.sweep.broker import Job
from raysparse.sweep.ray import cluster
from raysparse.sweep.ray.broker_actor import start_broker
from raysparse.sweep.ray.gauges import Gauges
from raysparse.sweep.ray.tune import run_tune
from raysparse.sweep.ray.worker import serve
from raysparse.sweep.settings import RayLostError, Settings
from raysparse.sweep.snapshot import Snapshot, View

REFRESH = 0.5  # seconds between looks of the view at the broker
ENDING = 0.05  # seconds between looks at slots that were told to end
PATIENCE = 120.0  # seconds for calls of a Ray that was lost to return
FLEET_STARTS = 3  # of one slot, when Ray Train itself gives up (it restarts killed workers by itself)


def run(job: Job, settings: Settings, view: View, begin: Callable[[], None]) -> None:
    """Run the chosen trials of a job on a Ray cluster; `begin` is called once Ray has answered.
    Raises RuntimeError when no slot could be kept alive, RayLostError when Ray itself went away.
    """
    threads: list[Background] = []
    try:
        with cluster.joined(settings, job.plan.placement, job.folder.uri) as place:
            begin()
            _run(job, settings, view, place, threads)
    except RayLostError:
        until = time.monotonic() + PATIENCE
        for thread in threads:  # whatever they waited for is gone
            thread.join(max(0.0, until - time.monotonic()))
        if any(not thread.ended for thread in threads):
            raise RuntimeError("a call of Ray still waits for a Ray that was lost; run again to continue") from None
        raise


def _run(job: Job, settings: Settings, view: View, place: cluster.Place, threads: list[Background]) -> None:
    broker = start_broker(job)
    count = place.slots if job.plan.planner is not None else min(place.slots, len(job.chosen))
    told = f"Ray {settings.address or 'on this machine'}: {count} trials at once"
    for line in (told, *place.links, f"curves: tensorboard --logdir {job.folder.uri}/trials"):
        view.say(line)
    slots = [Slot(f"slot-{n}", broker, job, settings) for n in range(count)]
    tuner = Background("tune", lambda: run_tune(broker, job, len(slots), settings))
    threads += [tuner, *slots]
    gauges = Gauges(job.folder.name, job.plan.budget.unit)
    with view:
        while not tuner.ended:
            now: Snapshot = answer(broker.snapshot.remote())
            view.show(now)
            gauges.show(now)
            if all(slot.ended for slot in slots):
                answer(broker.give_up.remote("Ray Train could not keep a worker group alive"))
            time.sleep(REFRESH)
        answer(broker.close.remote())
        while not all(slot.ended for slot in slots):
            cluster.check()
            time.sleep(ENDING)
    tuner.result()
    for slot in slots:
        slot.result()


def answer(question: Any) -> Any:
    """What the broker answers. Raises RayLostError when the Ray that was started here ends before;
    Ray's own call may wait for a minute then.
    """
    while True:
        cluster.check()
        if ray.wait([question], timeout=REFRESH)[0]:
            return ray.get(question)


class Background(threading.Thread):
    """A blocking call of Ray in a thread, so that the main thread keeps Ctrl-C and the view.
    `result` raises what it raised.
    """

    def __init__(self, name: str, call: Any):
        super().__init__(name=name, daemon=True)
        self._call = call
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self.is_alive()

    def result(self) -> None:
        self.join()
        if self._error is not None:
            raise self._error


class Slot(Background):
    """One resident Ray Train run."""

    def __init__(self, name: str, broker: ActorHandle[Any], job: Job, settings: Settings):
        self.slot, self.broker, self.job, self.settings = name, broker, job, settings
        super().__init__(name, self._keep_running)

    def _keep_running(self) -> None:
        for start in range(1, FLEET_STARTS + 1):
            try:
                self._fit()
                return
            except train.TrainingFailedError as error:
                is_memory = "OutOfMemory" in str(error) or "low on memory" in str(error)  # of Ray's memory monitor
                status, last_line = "out_of_memory" if is_memory else "failed", str(error).strip().splitlines()[-1]
                ray.get(self.broker.lost.remote(self.slot, status, last_line[:500]))
                if start == FLEET_STARTS:
                    raise

    def _fit(self) -> None:
        placement = self.job.plan.placement
        resources = {
            "CPU": placement.threads,
            **({"GPU": self.settings.gpus} if self.settings.gpus else {}),
        }
        TorchTrainer(
            serve,
            train_loop_config={"broker": self.broker, "slot": self.slot, "attempt": attempt},
            scaling_config=train.ScalingConfig(
                num_workers=placement.workers, use_gpu=self.settings.gpus > 0, resources_per_worker=resources
            ),
            run_config=train.RunConfig(  # type: ignore[call-arg]  # Ray's types still describe the older class
                name=self.slot,
                storage_path=self.job.folder.ray,
                failure_config=train.FailureConfig(max_failures=-1),  # the broker counts deaths, by trial
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        ).fit()
