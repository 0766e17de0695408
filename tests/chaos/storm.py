"""A storm over a sweep: processes are killed and stopped, the disk is full, the clock goes back,
and the sweep is run again until nothing of it is left to do.

Everything is chosen by a seed but for the moments, which depend on the machine. One plan is run by
turns inline, on a Ray of its own and on a cluster of two nodes, so that each finds what another
left. A tight budget is raised when it is spent, and the ledger is read all the while. What the
storm did is kept beside the run folder (`storm.json`), so that it can go on in another call. Left
out: the verdict (`verdict`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from raysparse import faults
from raysparse.sweep.budget import Budget
from raysparse.sweep.plan import Plan
from tests.chaos import processes, verdict
from tests.chaos.cluster import TwoNodes
from tests.chaos.sweeps import TURNED, Forked
from tests.sweep import runs

MARK = "RAYSPARSE_STORM"
LOOK = 0.02  # seconds between looks at the ledger
PAUSE = (0.05, 1.2)  # seconds of progress before the next blow
STOPPED = (0.5, 3.0)  # seconds that a process or a full disk stays so
ENOUGH = 3600.0  # seconds in which the rest of a sweep is run, however slow the machine
GONE = 120.0  # seconds in which all of a killed driver must be gone: Ray's agents ask a dead GCS for a minute
BALLAST = 1 << 20  # bytes written at once to fill the disk
SHARES = (0.4, 0.7, 1.0, 100.0)  # of the plan's price: the budget, raised when it is spent

BLOWS = {
    "inline": ("driver", "stop driver", "point", "disk", "clock"),
    "ray": ("driver", "worker", "controller", "tune", "broker", "raylet", "gcs", "whole", "stop worker",
            "stop raylet", "stop driver", "clock"),
    "cluster": ("driver", "worker", "node", "stop worker"),
}  # fmt: skip


Driver = subprocess.Popen[str] | Forked


class Storm:
    """One storm. `storage` should be a small disk of its own for the blow "disk" to be dealt."""

    def __init__(self, plan: Plan, storage: Path, seed: int, say: Callable[[str], None] = print):
        self.plan, self.storage, self.seed, self.say = plan, storage, seed, say
        self.run_folder, self.file = storage / "run", storage / "storm.json"
        self.mark, self.clock = f"{seed}-{storage.name}", str(storage / "clock.txt")
        self.blows: list[dict[str, str]] = []
        self.overshot: list[str] = []
        self.orphans: list[str] = []
        self.samples = self.share = self.sessions = 0
        self.seconds = 0.0
        if self.file.exists():
            vars(self).update(json.loads(self.file.read_text()))
        self.random = random.Random(f"{seed} {len(self.blows)}")
        self.step_prices = {spec.trial_id: plan.price(spec) / spec.steps for spec in plan.specs}
        self.whole = sum(map(plan.price, plan.specs))
        self._ledger = 0  # when it was last written
        self._end = math.inf

    def save(self) -> None:
        names = ("blows", "overshot", "orphans", "samples", "share", "sessions", "seconds")
        self.file.write_text(json.dumps({name: getattr(self, name) for name in names}))

    # -- sessions --

    @property
    def limit(self) -> float:
        return SHARES[self.share] * self.whole

    def blow_and_resume(self, mode: str, blows: int, seconds: float = math.inf) -> None:
        """Deal so many blows to the sweep under one executor, those of earlier calls counted,
        starting it again whenever it ended; ends early when nothing is left to do, or after so many
        seconds.
        """
        if blows <= self._dealt(mode) or seconds <= 0:
            return
        self._end = time.monotonic() + seconds
        with TwoNodes(self.environment()) if mode == "cluster" else contextlib.nullcontext() as cluster:
            arguments = {
                "inline": (),
                "ray": ("--slots", "2"),
                "cluster": ("--address", cluster.address if cluster else "", "--slots", "2"),
            }[mode]
            while self._dealt(mode) < blows and time.monotonic() < self._end:
                if not self._session(mode, arguments, blows, cluster):
                    break
        self.save()

    def finish(self) -> None:
        """Run what is left without a blow, with all the budget that it takes."""
        self.share = len(SHARES) - 1
        for _ in range(4):  # a trial may have been killed three times
            status = self._start(()).wait(ENOUGH)
            if status == 0:
                break
        self._wait_for_orphans()
        self.save()

    def faults(self, undisturbed: verdict.Losses) -> list[str]:
        return [*verdict.faults_of(self.run_folder, undisturbed), *self.overshot, *self.orphans]

    def environment(self) -> dict[str, str]:
        here = Path(__file__).parent
        paths = [str(here / "clock"), str(here.parent.parent), os.environ.get("PYTHONPATH", "")]
        return {MARK: self.mark, TURNED: self.clock, "PYTHONPATH": ":".join(filter(None, paths))}

    def _start(self, arguments: tuple[str, ...], kill_at: str = "") -> Driver:
        self.sessions += 1
        plan = self.plan.replace(budget=Budget(total=self.limit))
        if not arguments:
            return Forked(plan, self.storage, kill_at, self.clock)
        with patched(self.environment()):
            return runs.start(plan, self.storage, *arguments)

    def _dealt(self, mode: str) -> int:
        return sum(blow["mode"] == mode for blow in self.blows)

    def _session(self, mode: str, arguments: tuple[str, ...], blows: int, cluster: TwoNodes | None) -> bool:
        """One life of a driver; False when it had nothing to do."""
        point = ""
        if mode == "inline" and self.random.random() < 0.3:
            point = f"{self.random.choice(sorted(faults.POINTS))}:{self.random.randint(1, 20)}"
        driver = self._start(arguments, point)
        while driver.poll() is None and self._dealt(mode) < blows and time.monotonic() < self._end:
            if self._progresses(driver, self.random.uniform(*PAUSE)):
                self._deal(mode, self._choose(mode), driver, cluster)
        if driver.poll() is None:
            runs.kill(driver.pid)
        status = driver.wait(runs.PATIENCE)
        if point and status == -signal.SIGKILL and self._dealt(mode) < blows:
            self._note(mode, f"point {point.partition(':')[0]}")
        if mode != "cluster":
            self._wait_for_orphans()
        if status == 0 and self.share + 1 < len(SHARES):
            self.share += 1  # all was run that the budget could pay
            return True
        return status != 0

    def _progresses(self, driver: Driver, seconds: float) -> bool:
        """Wait until the sweep has worked for so long; False when it ended before."""
        begun, seen = None, self._state()
        while begun is None or time.monotonic() - begun < seconds:
            if driver.poll() is not None or time.monotonic() > self._end:
                return False
            if begun is None and self._state() != seen:
                begun = time.monotonic()
            self._sample()
            time.sleep(LOOK)
        return True

    def _state(self) -> list[tuple[str, int]]:
        return sorted(
            (path.name, path.stat().st_mtime_ns) for path in self.run_folder.glob("trials/*/checkpoint/latest.json")
        )

    def _sample(self) -> None:
        ledger = self.run_folder / "ledger.json"
        if not ledger.exists() or ledger.stat().st_mtime_ns == self._ledger:
            return
        self._ledger = ledger.stat().st_mtime_ns
        self.samples += 1
        work = json.loads(ledger.read_text())
        spent = sum(self.step_prices[key] * values["steps"] for key, values in work.items())
        if spent > self.limit * (1 + 1e-9):  # of rounding
            self.overshot.append(f"the ledger held {spent:.6g} of a budget of {self.limit:.6g}")

    def _wait_for_orphans(self) -> None:
        """Nothing of a driver that has ended may live on."""
        end = time.monotonic() + GONE
        while left := processes.marked(f"{MARK}={self.mark}"):
            if time.monotonic() > end:
                self.orphans += [f"orphan {pid}: {_without_folders(name)}" for pid, name in left.items()]
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        runs.kill(pid)
                return
            time.sleep(0.1)

    # -- blows --

    def _choose(self, mode: str) -> str:
        """A kind of blow; what was dealt least is the likeliest, so that all have their turn."""
        kinds = [blow for blow in BLOWS[mode] if blow != "point"]
        dealt = Counter(blow["blow"] for blow in self.blows)
        return self.random.choices(kinds, [(1 + dealt[kind]) ** -3 for kind in kinds])[0]

    def _deal(self, mode: str, blow: str, driver: Driver, cluster: TwoNodes | None) -> None:
        for word, act in (("stop ", self._stop), ("disk", self._fill_the_disk), ("clock", self._turn_the_clock)):
            if blow.startswith(word):
                if act(driver, blow.removeprefix(word)):
                    self._note(mode, blow)
                return
        if blow == "node":
            assert cluster is not None
            cluster.lose_and_add_a_node()
        elif blow == "whole":
            for pid in [*runs.descendants(driver.pid), driver.pid]:
                with contextlib.suppress(ProcessLookupError):
                    runs.kill(pid)
        else:
            victims = self._victims(driver, blow)
            if not victims:
                return
            with contextlib.suppress(ProcessLookupError):
                runs.kill(self.random.choice(victims))
        self._note(mode, blow)

    def _victims(self, driver: Driver, what: str) -> list[int]:
        if what == "driver":
            return [driver.pid]
        found = processes.marked(f"{MARK}={self.mark}")
        return sorted(pid for pid, name in found.items() if processes.KINDS[what] in name)

    def _stop(self, driver: Driver, what: str) -> bool:
        """Stop a process, and let it go on after some seconds as if nothing had been."""
        victims = self._victims(driver, what)
        if not victims:
            return False
        victim = self.random.choice(victims)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGSTOP)
            self._watch(self.random.uniform(*STOPPED))
            os.kill(victim, signal.SIGCONT)
        return True

    def _fill_the_disk(self, driver: Driver, _: str) -> bool:
        if not os.path.ismount(self.storage):
            return False
        ballast = self.storage / "ballast"
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * BALLAST):
                pass
        self._watch(self.random.uniform(*STOPPED))
        ballast.unlink()
        return True

    def _turn_the_clock(self, driver: Driver, _: str) -> bool:
        """`time.time` of every Python process of the sweep goes back, or on, by up to a day."""
        Path(self.clock).write_text(str(self.random.uniform(-86_400, 3_600)))
        return True

    def _watch(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._sample()
            time.sleep(LOOK)

    def _note(self, mode: str, blow: str) -> None:
        self.blows.append({"mode": mode, "blow": blow})
        self.say(f"{len(self.blows)}: {mode}, {blow}")
        with contextlib.suppress(OSError):
            self.save()


def _without_folders(command: str) -> str:
    return " ".join(word.rpartition("/")[2] for word in command.split())[:80]


@contextlib.contextmanager
def patched(more: dict[str, str]) -> Iterator[None]:
    """The environment with `more` in it."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
