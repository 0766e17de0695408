"""Run a sweep in this process, one trial after another, without Ray: for debuggers and bare
machines.

It obeys the same broker as the fleet, so budgets, retries and the journal are the same, and a
trial's numbers are too. What it leaves out is what one process cannot give: a trial whose process
is killed ends the sweep (running it again continues), and there is one slot.
"""

from __future__ import annotations

import math
import time

from raysparse.spec import TrialSpec
from raysparse.sweep.attempt import attempt
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.lease import Fence, Lease, Report
from raysparse.sweep.snapshot import View, snapshot
from raysparse.sweep.supply import Supply

SLOT = "inline"
REFRESH = 0.5  # seconds between looks of the view: a snapshot goes through all trials


def run(job: Job, view: View) -> None:
    """Run the trials of a job."""
    broker, supply, shown = Broker(job), Supply(job), Shown(view)
    with view:
        while isinstance(spec := supply.next(broker.standing), TrialSpec):
            broker.submit(spec)
            while isinstance(lease := broker.take(SLOT), Lease):
                _serve(broker, lease, shown)
        view.show(snapshot(broker))


class Shown:
    """A view that is given a snapshot now and then."""

    def __init__(self, view: View):
        self._view, self._at = view, -math.inf

    def look(self, broker: Broker) -> None:
        if time.monotonic() - self._at >= REFRESH:
            self._at = time.monotonic()
            self._view.show(snapshot(broker))


def _serve(broker: Broker, lease: Lease, shown: Shown) -> None:
    fence = Fence(broker, lease)

    def tell(report: Report) -> str:
        stop = fence.tell(report)
        shown.look(broker)
        return stop

    broker.finish(lease.claim, attempt(lease, fence, tell))
    shown.look(broker)
