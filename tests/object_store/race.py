"""Two drivers that enter one run folder together, again and again: how many get in each time.

Each driver is a process of its own that lives for all rounds. Both wait for the same instant, try
to own the folder of the round, and hold it until the round is over. Used by the tests and by
`python -m benchmarks.driver_race`.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.synchronize import Barrier

from raysparse.files import Folder
from raysparse.sweep import lock

PATIENCE = 60.0  # seconds


def race(storage: str, rounds: int) -> list[int]:
    """How many of two drivers owned the folder at once, in each round."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    drivers = [context.Process(target=_drive, args=(storage, n, rounds, barrier, results)) for n in range(2)]
    for driver in drivers:
        driver.start()
    owned = [0] * rounds
    for _ in range(2 * rounds):
        number, entered = results.get(timeout=PATIENCE)
        owned[number] += entered
    for driver in drivers:
        driver.join()
    return owned


def _drive(storage: str, seed: int, rounds: int, barrier: Barrier, results) -> None:
    later = random.Random(seed)
    for number in range(rounds):
        folder = Folder(storage).child(f"run-{number // 2}")  # every second time one that was let go
        if folder.is_local:
            folder.local_path.mkdir(parents=True, exist_ok=True)
        barrier.wait(PATIENCE)
        time.sleep(later.random() * 0.01)
        try:
            with lock.owned(folder):
                results.put((number, 1))
                barrier.wait(PATIENCE)
        except ValueError as refusal:
            if "in use by another sweep" not in str(refusal):
                raise
            results.put((number, 0))
            barrier.wait(PATIENCE)
        barrier.wait(PATIENCE)
