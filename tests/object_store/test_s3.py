"""A run folder on an S3 server on this machine: how many requests things take, and what stays right
when something is killed or comes late.
"""

import signal
import time

import pytest

from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Outcome, Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.sweep import lock, runner
from raysparse.sweep.overview import overview
from raysparse.sweep.settings import Settings
from tests.conftest import small_trial
from tests.object_store.race import race
from tests.sweep.plans import small_plan, write_corpus

WAIT = 0.04  # seconds a request


def row_of(seed, loss=2.0):
    return make_row(small_trial(seed=seed), Placement(), Outcome(status="completed", validation_loss=loss))


def test_a_small_file_is_one_request_and_a_missing_one_is_too(s3):
    folder = Folder(s3.uri("files"))
    s3.requests()
    folder.child("a").write_json("b.json", {"x": 1})
    assert [method for method, _ in s3.requests()] == ["PUT"]
    assert folder.child("a").read_json("b.json") == {"x": 1}
    assert [method for method, _ in s3.requests()] == ["HEAD", "GET"]
    assert folder.read_json_if_there("none") is None
    assert not folder.exists("none")
    assert [method for method, _ in s3.requests()] == ["HEAD", "HEAD"]
    assert list(folder.child("a").stamps()) == ["b.json"]
    assert len(s3.requests()) == 1


def test_an_interrupt_leaves_the_old_object_or_the_new_one(s3, monkeypatch):
    """A stream that an interrupt leaves would be closed, and so publish what it had until then."""
    folder = Folder(s3.uri("runs"))
    folder.write("a.json", b"old")
    inner = folder._filesystem

    class Interrupted:
        def __getattr__(self, name):
            return getattr(inner, name)

        def open_output_stream(self, path):
            stream = inner.open_output_stream(path)
            time.sleep(0.1)  # the main thread waits by now
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)  # and hears of it
            return stream

    monkeypatch.setattr(folder, "_filesystem", Interrupted())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            folder.write("a.json", b"new")
    finally:
        signal.signal(signal.SIGINT, before)
    assert inner.open_input_stream(folder._path("a.json")).read() == b"new"


def test_rows_newer_than_the_table_are_read_one_by_one_and_the_others_with_it(s3):
    folder = RunFolder(s3.uri("newer"))
    results = Results(folder)
    for seed in range(40):
        results.record(row_of(seed))
    time.sleep(3.1)  # an object store's clock ticks in seconds, and a row of the last tick is not trusted
    results.record(row_of(40))
    results.compact()
    results.record(row_of(41))
    results.record(row_of(3, loss=1.5))
    s3.requests()
    rows = {row["seed"]: row["validation_loss"] for row in Results(folder).rows()}
    assert rows == {seed: 1.5 if seed == 3 else 2.0 for seed in range(42)}
    gets = [path for method, path in s3.requests() if method == "GET" and ".json" in path]
    assert len(gets) == 3, "the retry, the new one, and the one written in the table's own second"


def test_a_table_that_is_damaged_or_lost_costs_requests_and_no_row(s3):
    folder = RunFolder(s3.uri("damaged"))
    results = Results(folder)
    for seed in range(5):
        results.record(row_of(seed))
    whole = results.rows()
    results.compact()
    folder.write("results.parquet", b"PAR1 damaged")
    assert Results(folder).rows() == whole
    folder.delete("results.parquet")
    assert Results(folder).rows() == whole


def test_of_two_drivers_together_exactly_one_runs(s3, tmp_path):
    pytest.importorskip("boto3", reason="conditional writes need boto3")
    assert race(s3.uri("race"), 10) == [1] * 10
    assert race(str(tmp_path), 20) == [1] * 20


def test_a_lock_that_was_not_renewed_is_taken_over_once_and_its_owner_stops(s3, monkeypatch):
    pytest.importorskip("boto3", reason="conditional writes need boto3")
    folder = RunFolder(s3.uri("stale"))
    monkeypatch.setattr(lock, "RENEW_EVERY", 1.5)
    with pytest.raises(ValueError, match="was taken over by another sweep"), lock.owned(folder):  # noqa: PT012
        with pytest.raises(ValueError, match="is in use by another sweep"), lock.owned(folder):
            pass
        monkeypatch.setattr(lock, "STALE_AFTER", 0.0)
        other = lock._Conditioned(folder)
        assert other.take()
        for _ in range(100):
            time.sleep(0.1)
    assert other.renew(), "the one that stopped has not let go of what is not its own"


def test_without_conditional_writes_it_is_said_and_a_second_driver_is_refused(s3, monkeypatch):
    monkeypatch.setattr(lock, "why_not", lambda folder: "boto3 is not installed")
    monkeypatch.setattr(lock, "SETTLE", 0.1)
    folder, said = RunFolder(s3.uri("looking")), []
    refused = pytest.raises(ValueError, match="is in use by another sweep")
    with lock.owned(folder, said.append), refused, lock.owned(folder):
        pass
    assert "without conditional writes (boto3 is not installed)" in said[0]
    with lock.owned(folder):
        assert folder.read_json("driver.lock")["owner"]


def test_a_sweep_takes_few_requests_and_another_look_at_it_fewer(s3, tmp_path):
    """At most 30 requests a trial beyond the data itself; token stores are the data."""
    plan = small_plan(write_corpus(tmp_path / "corpus"))
    plan = plan.replace(placement=plan.placement.replace(checkpoint_seconds=60.0))
    storage = Folder(s3.uri("sweep"))
    s3.requests()
    summary = runner.run(plan, storage, "run", Settings(executor="inline"))
    assert summary.is_complete
    asked = [path for _, path in s3.requests() if "/tokens/" not in path]
    assert len(asked) <= 30 * len(plan.specs)
    assert any("tensorboard" in path for path in asked)
    assert not [path for path in asked if path.endswith("//")]
    again = runner.run(plan, storage, "run", Settings(executor="inline"))
    assert (again.ran, again.is_complete) == (0, True)
    young = 2 * len(plan.specs)  # too young for their table to vouch for them: each is looked for and read
    assert len(s3.requests()) <= 18 + young
    assert overview(summary.folder).finished == len(plan.specs)
    assert len(s3.requests()) <= 9 + young
