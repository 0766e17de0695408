"""A slot: one resident Ray Train run, started, watched and started again.

A run ends well when the broker sends its workers home: at the end, or because others can do what is
left while its machine could be given back. It ends badly when Ray Train gives up; then whatever it
still holds is released before the next try, and what it said is passed on. Killed workers are not
the slot's business: Ray Train starts them again, and the broker counts deaths by trial.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import train
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import remove_placement_group

from raysparse.sweep.books import Job
from raysparse.sweep.ray.group import TorchGroup
from raysparse.sweep.settings import Settings

STARTS = 3  # of one run, when Ray Train itself gives up
IDLE_HELPERS = ("DatasetsCallback", "PlacementGroupCleanerCallback")  # of Ray Train


class Background(threading.Thread):
    """A blocking call of Ray in a thread, so that the main thread keeps Ctrl-C and the view.
    `result` raises what it raised.
    """

    def __init__(self, name: str, call: Callable[[], None]):
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

    @property
    def broke(self) -> bool:
        return self.ended and self._error is not None

    def result(self) -> None:
        self.join()
        if self._error is not None:
            raise self._error


class Reachable(ControllerCallback):
    """Tells the broker which process keeps the workers of a slot, for whoever must end it: what
    `fit` waits for cannot be ended from here.
    """

    def __init__(self, group: TorchGroup):
        self.group = group

    def after_controller_start(self, train_run_context: Any) -> None:
        me = ray.get_runtime_context().current_actor
        ray.get(self.group.broker.kept_by.remote(self.group.slot, me))


class GroupTrainer(DataParallelTrainer):
    """Ray Train without the helpers that nothing here asks, and without torch in this process."""

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()
        assert isinstance(self.backend_config, TorchGroup)
        kept = [callback for callback in made if type(callback).__name__ not in IDLE_HELPERS]
        return [*kept, Reachable(self.backend_config)]


class Slot(Background):
    """One resident Ray Train run. `say` takes a line for people, from this thread."""

    def __init__(self, name: str, broker: ActorHandle[Any], job: Job, settings: Settings, say: Callable[[str], None]):
        self.slot, self.broker, self.job, self.settings, self.say = name, broker, job, settings, say
        self.started_at = time.monotonic()
        self._is_over = False
        super().__init__(name, self._keep_running)

    def end(self) -> None:
        """End it where it is: what it still waits for is not needed any more."""
        self._is_over = True
        self.broker.end.remote(self.slot)

    def _keep_running(self) -> None:
        for start in range(1, STARTS + 1):
            try:
                self._fit()
                return
            except (train.TrainingFailedError, RayActorError) as error:
                last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:500]
                is_memory = "OutOfMemory" in str(error) or "low on memory" in str(error)  # of Ray's memory monitor
                self.release()
                if self._is_over:
                    return
                ray.get(self.broker.lost.remote(self.slot, "out_of_memory" if is_memory else "failed", last_line))
                self.say(f"{self.slot}: its workers could not be kept (try {start} of {STARTS}): {last_line}")
                if start == STARTS:
                    raise

    def release(self) -> None:
        """Give back what the last workers stood on; Ray does not when their controller is dead."""
        taken: Any = ray.get(self.broker.place_of.remote(self.slot))
        if taken is not None:
            remove_placement_group(taken)  # no error if it was removed before

    def _fit(self) -> None:
        placement, settings = self.job.plan.placement, self.settings
        resources = {"CPU": placement.threads, **({"GPU": settings.gpus} if settings.gpus else {})}
        GroupTrainer(
            serve_in_worker,
            train_loop_config={"broker": self.broker, "slot": self.slot},
            backend_config=TorchGroup(self.broker, self.slot, backend="nccl" if settings.gpus else "gloo"),
            scaling_config=train.ScalingConfig(
                num_workers=workers(settings, placement.workers),  # type: ignore[arg-type]  # a range: elastic
                use_gpu=settings.gpus > 0,
                resources_per_worker=resources,
            ),
            run_config=train.RunConfig(  # type: ignore[call-arg]  # Ray's types still describe the older class
                name=self.slot,
                storage_path=self.job.folder.ray,
                failure_config=train.FailureConfig(max_failures=-1),  # the broker counts deaths, by trial
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        ).fit()


def serve_in_worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in every worker, and the first that names torch there."""
    from raysparse.sweep.ray.worker import serve

    serve(config)


def workers(settings: Settings, most: int) -> int | tuple[int, int]:
    """As Ray Train takes it: a number, or the least and the most."""
    return (settings.min_workers, most) if 0 < settings.min_workers < most else most
