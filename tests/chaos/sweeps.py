"""Inline sweeps in processes of their own that die where they are told to.

A server process imports torch and raysparse once and forks a child for each sweep, so that a kill
and a resume cost no start of Python. The child reads `RAYSPARSE_KILL_AT` as a new process would:
the module is loaded again.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

from raysparse import faults
from raysparse.data.order import Batches
from raysparse.files import Folder
from raysparse.sweep import lock, runner
from raysparse.sweep.plan import Plan
from raysparse.sweep.settings import Settings
from raysparse.train import step
from raysparse.train.state import TrainState

PATIENCE = 240.0  # seconds
WITNESS = "steps.txt"
TURNED = "RAYSPARSE_STORM_CLOCK"
PRELOADED = [
    "tests.chaos.sweeps", "raysparse.sweep.inline", "raysparse.sweep.planners.study",
    "torch.utils.tensorboard", "datasketch", "pandas", "pyarrow.parquet",
]  # fmt: skip


def sweep(plan: Plan, storage: Path, kill_at: str = "", *, remote_lock: bool = False) -> int:
    """Run a plan in a process of its own; its exit code, -9 when it was killed."""
    return Forked(plan, storage, kill_at, remote_lock=remote_lock).wait(PATIENCE)


class Forked:
    """An inline sweep that runs, with the words of `subprocess.Popen`. What it prints goes into
    log.txt beside the storage. `clock`: the file of a clock that can be turned.
    """

    def __init__(self, plan: Plan, storage: Path, kill_at: str = "", clock: str = "", *, remote_lock: bool = False):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._process = context.Process(target=_run, args=(plan, str(storage), kill_at, clock, remote_lock))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Its exit code: 0 when nothing is left to do."""
        self._process.join(seconds)
        code = self.poll()
        self._process.kill()
        assert code is not None, "the sweep did not end"
        return code


def steps_taken(storage: Path) -> dict[str, int]:
    """The steps that were really computed for each trial, over all sweeps in this storage."""
    return Counter((storage / WITNESS).read_text().split())


def _witness(path: Path) -> None:
    """From now on write down every step of a trial once it is computed, before anything else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    real = step.train_step

    def train_step(state: TrainState, batches: Batches) -> step.StepRecord:
        done = real(state, batches)
        os.write(file, f"{state.spec.trial_id}\n".encode())
        return done

    step.train_step = train_step


def _run(plan: Plan, storage: str, kill_at: str, clock: str, remote_lock: bool) -> None:
    log = os.open(f"{storage}.log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if clock:
        os.environ[TURNED] = clock
        runpy.run_path(str(Path(__file__).parent / "clock" / "sitecustomize.py"))
    if kill_at:
        os.environ[faults.VARIABLE] = kill_at
    importlib.reload(faults)
    if remote_lock:  # that of an object store, renewed and stale a thousand times sooner
        lock._owned_locally = lambda folder: lock._owned_remotely(folder, print)
        lock.RENEW_EVERY, lock.STALE_AFTER, lock.SETTLE = 0.01, 0.05, 0.01
    _witness(Path(storage) / WITNESS)
    summary = runner.run(plan, Folder(storage), "run", Settings(executor="inline"))
    sys.exit(1 if summary.unfinished else 0)
