"""Two drivers that enter one run folder together, 200 times on a disk and 200 times on an S3 server
on this machine: how often exactly one got in. The lock alone, not whole sweeps.

    python -m benchmarks.driver_race
"""

from __future__ import annotations

import os
import tempfile
import time

from benchmarks.record import save
from tests.object_store.race import race
from tests.object_store.server import CREDENTIALS, running

ROUNDS = 200


def row(store: str, place: str) -> dict[str, object]:
    began = time.perf_counter()
    owned = race(place, ROUNDS)
    times = {f"{n}_ran": owned.count(n) for n in range(3)}
    return {"store": store, "rounds": ROUNDS, **times, "seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory() as here:
        rows = [row("disk", here)]
    with running() as server:
        rows.append(row("s3", server.uri("race")))
    for each in rows:
        print(each)
    save("driver_race", rows)


if __name__ == "__main__":
    main()
