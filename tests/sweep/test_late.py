"""A real trial in two hands: the first holder is stopped in the middle, the second trains it to its
end, the first continues.
"""

from __future__ import annotations

import pytest

from raysparse.files import Folder
from raysparse.results import Results
from raysparse.run_folder import RunFolder
from raysparse.sweep import runner
from raysparse.sweep.attempt import attempt
from raysparse.sweep.books import Job
from raysparse.sweep.broker import Broker
from raysparse.sweep.lease import Fence, LeaseLostError
from raysparse.sweep.settings import Settings
from raysparse.sweep.snapshot import Unseen
from tests.sweep import runs
from tests.sweep.plans import small_plan
from tests.sweep.test_broker import Clock
from tests.sweep.test_leases import TTL, pass_time


@pytest.mark.parametrize("wakes_at", ["a report", "a checkpoint"])
def test_the_late_one_changes_no_file_and_no_row(corpus, tmp_path, wakes_at):
    plan = small_plan(corpus, densities=(0.25,), epochs=(4,))
    plan = plan.replace(placement=plan.placement.replace(checkpoint_seconds=1e-9))
    folder = RunFolder.named(Folder(tmp_path), "run").writable()
    runner.prepare_tokens(plan, folder, Unseen(), Results(folder))
    clock = Clock()
    broker = Broker(Job(plan, folder, plan.specs), clock=clock)
    broker.submit(plan.specs[0])
    late = broker.take("one")
    fence, left = Fence(broker, late, clock=clock), {}

    def told(report) -> str:
        if report["step"] == late.spec.steps // 2:
            pass_time(broker, clock, TTL + 1)  # it is stopped here
            lease = broker.take("two")
            second = Fence(broker, lease, clock=clock)
            broker.finish(lease.claim, attempt(lease, second, second.tell))
            left.update(files(folder))
        return "" if left and wakes_at == "a checkpoint" else fence.tell(report)

    outcome = attempt(late, fence, told)
    assert outcome.status == "preempted"
    assert "lease 1 of trial" in outcome.reason
    assert fence.is_lost
    with pytest.raises(LeaseLostError):
        broker.finish(late.claim, outcome)
    assert files(folder) == left
    undisturbed = tmp_path / "undisturbed"
    runner.run(plan, Folder(undisturbed), "run", Settings(executor="inline"))
    Results(folder).compact()
    assert runs.losses(tmp_path) == runs.losses(undisturbed)


def files(folder: RunFolder) -> dict[str, bytes]:
    """All but event files, which have a name for each process that writes them."""
    found = (path for path in folder.local_path.rglob("*") if path.is_file() and "tfevents" not in path.name)
    return {str(path): path.read_bytes() for path in found}
