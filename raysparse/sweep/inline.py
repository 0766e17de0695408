"""Run a sweep in this process, one trial after another, without Ray: for debuggers and bare
machines.

It obeys the same broker as the fleet, so budgets, retries and the journal are the same, and a
trial's numbers are too. What it leaves out is what one process cannot give: a trial whose process
is killed ends the sweep (running it again continues), and there is one slot.
"""

from __future__ import annotations

from raysparse.spec import TrialSpec
from raysparse.sweep.attempt import attempt
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.lease import Fence, Lease, Report
from raysparse.sweep.snapshot import View, snapshot
from raysparse.sweep.supply import Supply

SLOT = "inline"


def run(job: Job, view: View) -> None:
    """Run the trials of a job."""
    broker, supply = Broker(job), Supply(job)
    with view:
        while isinstance(spec := supply.next(broker.standing), TrialSpec):
            broker.submit(spec)
            while isinstance(lease := broker.take(SLOT), Lease):
                _serve(broker, lease, view)


def _serve(broker: Broker, lease: Lease, view: View) -> None:
    fence = Fence(broker, lease)

    def tell(report: Report) -> str:
        stop = fence.tell(report)
        view.show(snapshot(broker))
        return stop

    broker.finish(lease.claim, attempt(lease, fence, tell))
    view.show(snapshot(broker))
