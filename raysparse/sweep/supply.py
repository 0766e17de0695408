"""Where the next trial of a sweep comes from: first what is left of the plan, then what its planner
proposes, until it has nothing to say and nothing runs.

Both executors draw from here, so they get the same trials. What a planner proposed is in plan.json
before it is handed out: a driver that is killed finds its begun trials there, finishes them first,
and asks with the same knowledge as before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from raysparse.spec import TrialSpec
from raysparse.sweep.books import Job
from raysparse.sweep.lease import NoLease
from raysparse.sweep.planners.base import RUNNING, Known, Purse

Standing = tuple[Sequence[Known], float]  # every trial of the sweep, and what is left of the budget


class Supply:
    """The trials of a job, one at a time. Not thread-safe: whoever starts trials owns it."""

    def __init__(self, job: Job):
        self.plan, self._folder = job.plan, job.folder
        self._queue = deque(job.chosen)
        self._silent: object = None  # how things stood when the planner last had nothing to say

    def next(self, standing: Callable[[], Standing]) -> TrialSpec | NoLease:
        """The next trial; WAIT when there may be one once a running trial has ended; CLOSED when
        there is none. `standing` is asked for what is known, only if the planner must be.
        """
        if not self._queue and self.plan.planner is not None:
            known, remaining = standing()
            stands = {trial.spec.trial_id: trial.status for trial in known}, remaining
            if stands != self._silent:  # a slot that waits comes many times a second
                self._propose(known, Purse(remaining, self.plan.price))
                self._silent = None if self._queue else stands
            if not self._queue and any(trial.status == RUNNING for trial in known):
                return NoLease.WAIT
        return self._queue.popleft() if self._queue else NoLease.CLOSED

    def _propose(self, known: Sequence[Known], purse: Purse) -> None:
        assert self.plan.planner is not None
        specs = self.plan.planner.ask(known, purse)
        self.plan.planner.mirror(self._folder, [*known, *(Known(spec, RUNNING) for spec in specs)], purse)
        if specs:
            self.plan = self.plan.replace(specs=(*self.plan.specs, *specs))  # refuses one that is known
            self.plan.save(self._folder)
            self._queue.extend(specs)
