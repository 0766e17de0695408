"""Run a sweep on Ray: Tune runs the trials, Train runs the workers, a small broker actor stands
between them.

A *fleet* of slots, each one resident Ray Train run of W workers that serves trial after trial
(`worker`), instead of a Train run per trial, whose start costs more than a small trial
(docs/experiments.md has the numbers). A Tune trial is a driver without a CPU that submits its spec
to the broker and relays the reports, so Tune's searchers and schedulers and Ray's dashboard see
every trial, and a scheduler that stops one stops it in its worker.

Ray is transport: nothing here is needed to continue. When the driver dies, its local cluster dies
with it (the kernel ends Ray's processes with their parent), and the next run reads the run folder.
Left out: the rules (`broker`), and how one slot is kept alive (`slot`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from raysparse.sweep.books import Job
from raysparse.sweep.ray import check, cluster
from raysparse.sweep.ray.broker_actor import start_broker
from raysparse.sweep.ray.gauges import Gauges
from raysparse.sweep.ray.panels import Panels
from raysparse.sweep.ray.slot import Background, Slot
from raysparse.sweep.ray.tune import run_tune
from raysparse.sweep.settings import RayLostError, Settings
from raysparse.sweep.snapshot import Snapshot, View

REFRESH = 0.5  # seconds between looks of the view at the broker
ENDING = 0.05  # seconds between looks at slots that were told to end
PATIENCE = 30.0  # seconds without work after which a slot gives its machine back, on a cluster
USUAL_START = 60.0  # seconds in which the workers of a slot come up where there is room
SAY_AGAIN = 300.0
RETURNING = 180.0  # seconds for calls of Ray to return whose answer will not come; it waits 60 for most
GOODBYE = 20.0  # seconds for Ray Train to end a slot whose workers went home


def run(job: Job, settings: Settings, view: View, begin: Callable[[], None]) -> None:
    """Run the chosen trials of a job on a Ray cluster; `begin` is called once Ray has answered.
    Raises RuntimeError when no slot could be kept alive, RayLostError when Ray itself went away.
    """
    threads: list[Background] = []
    try:
        with cluster.joined(settings, job.plan.placement, job.folder.uri) as place:
            if settings.address:
                check.refuse_unfit(job.folder.storage)
            begin()
            _run(job, settings, view, place, threads)
    except RayLostError:
        until = time.monotonic() + RETURNING
        for thread in threads:  # whatever they waited for is gone
            thread.join(max(0.0, until - time.monotonic()))
        if waiting := [thread.name for thread in threads if not thread.ended]:
            raise RuntimeError(
                f"calls of Ray ({', '.join(waiting)}) still wait for a Ray that was lost; run again to continue"
            ) from None
        raise


def _run(job: Job, settings: Settings, view: View, place: cluster.Place, threads: list[Background]) -> None:
    broker = start_broker(job, patience=PATIENCE if settings.address else math.inf)
    count = place.slots if job.plan.planner is not None else min(place.slots, len(job.chosen))
    told = f"Ray {settings.address or 'on this machine'}: {count} trials at once"
    for line in (told, *place.links, f"curves: {job.folder.curves_command}"):
        view.say(line)
    fleet, gauges = Fleet(broker, job, settings, count, threads), Gauges(job.folder.name, job.plan.budget.unit)
    drawn: list[View | Gauges | Panels] = [view, gauges]
    if place.panels:
        place.panels.sweep, place.panels.unit = job.folder.name, job.plan.budget.unit
        drawn.append(place.panels)
    tuner = Background("tune", lambda: run_tune(broker, job, count, settings))
    threads.append(tuner)
    with view:
        is_at_work = True
        while not tuner.ended or is_at_work:  # a trial outlives the Tune trial that submitted it
            now: Snapshot = answer(broker.snapshot.remote())
            is_at_work = now.at_work > 0
            for one in drawn:
                one.show(now)
            for line in fleet.tend(now):
                view.say(line)
            if fleet.is_broken:
                answer(broker.give_up.remote("Ray Train could not keep a worker group alive"))
            time.sleep(REFRESH)
        answer(broker.close.remote())
        while answer(broker.snapshot.remote()).present:
            time.sleep(REFRESH)
        fleet.join(GOODBYE)
    tuner.result()
    fleet.result()


def answer(question: Any) -> Any:
    """What the broker answers. Raises RayLostError when the Ray that was started here ends before;
    Ray's own call may wait for a minute then.
    """
    while True:
        cluster.check()
        if ray.wait([question], timeout=REFRESH)[0]:
            return ray.get(question)


class Fleet:
    """The slots of a sweep. One that was sent home is started again when trials wait for it. Every
    slot that was started is in `threads`.
    """

    def __init__(
        self, broker: ActorHandle[Any], job: Job, settings: Settings, count: int, threads: list[Background]
    ):  # fmt: skip
        self._lines: deque[str] = deque()

        def start(name: str) -> Slot:
            slot = Slot(name, broker, job, settings, self._lines.append)
            threads.append(slot)
            return slot

        self._start = start
        self.slots = [self._start(f"slot-{n}") for n in range(count)]
        self._is_on_a_cluster = bool(settings.address)
        self._waiting = Waiting(f"{job.plan.placement.workers} workers each")

    @property
    def is_broken(self) -> bool:
        """No slot is left, and none can be started again."""
        return all(slot.broke for slot in self.slots)

    def tend(self, now: Snapshot) -> list[str]:
        """Start what is wanted again; the answer is what people should know."""
        alive = [slot for slot in self.slots if not slot.ended]
        have = sum(slot.slot in now.present for slot in alive)
        soon = time.monotonic() - USUAL_START
        coming = sum(slot.slot not in now.present and slot.started_at > soon for slot in alive)
        wanted = len(now.running) + now.wanted - have - coming
        for n, slot in enumerate(self.slots):
            if wanted > 0 and slot.ended and not slot.broke:
                self.slots[n] = self._start(slot.slot)
                wanted -= 1
        if self._is_on_a_cluster:  # this machine is here; its workers may take long
            self._lines.extend(self._waiting.lines(asked=len(alive), have=have))
        return [self._lines.popleft() for _ in range(len(self._lines))]

    def join(self, seconds: float) -> None:
        """Wait for the slots to end, so long for them to do it by themselves: one whose machine
        did not come back would wait for ever, and a thread in the middle of a call when Ray ends
        takes this process with it.
        """
        self._wait(seconds)
        for slot in self.slots:
            if not slot.ended:
                slot.end()
        self._wait(RETURNING)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not all(slot.ended for slot in self.slots) and time.monotonic() < until:
            cluster.check()
            time.sleep(ENDING)

    def result(self) -> None:
        """Raises what broke the last slot; while one is left, the broken ones were only said."""
        if self.is_broken:
            self.slots[-1].result()


class Waiting:
    """Notices that fewer slots have workers than were asked for, and says so now and then."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
        self._what, self._clock = what, clock
        self._since = self._said_at = -math.inf

    def lines(self, *, asked: int, have: int) -> list[str]:
        """What to say now: nothing, that machines are missing, or that they came."""
        now = self._clock()
        if have >= asked:
            came = [f"all {asked} slots have their workers"] if self._said_at > self._since else []
            self._since = self._said_at = -math.inf
            return came
        if self._since == -math.inf:
            self._since = now
        if now - self._since < USUAL_START or now - self._said_at < SAY_AGAIN:
            return []
        self._said_at = now
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - (now - self._since)))
        return [f"waiting for machines: asked for {asked} slots ({self._what}), have {have}, since {since}"]
