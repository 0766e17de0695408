"""What a slot of a sweep takes of the head: memory of its processes there, and the time until it
trains.

`python -m tests.cluster.head` runs a sweep with one slot, and another with two, on a fresh Ray of
three hosts each, and writes `benchmarks/results/cluster_head.json`: megabytes of the head's
processes by name while all slots train (resident, and the share that is their own), and the seconds
from the script's start to each slot's first checkpoint, which comes a second into its training.
Left out: the workers' machines.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import record
from tests.cluster.hosts import Host, lan, missing
from tests.cluster.sweeps import GRID, PORT, Sweep, start_ray, start_worker

HOSTS = ("head", "one", "two")
SWEEP = f"{GRID} --densities 0.25 1 --epochs 64 --seeds 0"
SETTLED = 10.0  # seconds after the last slot's first checkpoint: what only starts has ended
READ = r"""
import json, pathlib
found = []
for process in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (process / "cmdline").read_bytes().decode().replace(chr(0), " ").strip()
        lines = dict(line.split(":", 1) for line in (process / "smaps_rollup").read_text().splitlines()[1:])
    except OSError:
        continue
    if words:
        found.append([words, *(int(lines[name].split()[0]) for name in ("Rss", "Pss"))])
print(json.dumps(found))
"""


def memory(head: Host) -> dict[str, dict[str, float]]:
    """Name of the head's processes that belong to Ray or the script -> how many, and their MB."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"processes": 0, "resident": 0.0, "own": 0.0})
    script = f"python - <<'END'\n{READ}\nEND"
    for words, resident, own in json.loads(head.run(script).stdout):
        name = words.split()[0] if words.startswith("ray::") else "the script" if "grid.py" in words else "Ray's own"
        if "ray" in words and "python -" not in words.rpartition("/")[2]:
            found[name]["processes"] += 1
            found[name]["resident"] += resident / 1024
            found[name]["own"] += own / 1024
    return {name: {key: round(value) for key, value in of.items()} for name, of in sorted(found.items())}


def measured(work: Path, slots: int) -> dict[str, Any]:
    """A sweep of as many trials as slots."""
    with lan(HOSTS, work) as net:
        start_ray(net["head"], f"--head --port={PORT} --num-cpus=0 --include-dashboard=false")
        for name in HOSTS[1:]:
            start_worker(net[name])
        sweep = Sweep(net, "sweep", f"{SWEEP} --slots {slots}")
        firsts = []
        for count in range(1, slots + 1):
            sweep.wait_for(lambda: len(sweep.in_training()) >= count, f"{count} trials in training")  # noqa: B023
            firsts.append(round(time.monotonic() - sweep.began, 1))
        time.sleep(SETTLED)
        found = memory(net["head"])
        sweep.process.terminate()
        sweep.process.wait()
    return {"slots": slots, "seconds_to_first_checkpoint": firsts, "head_mb": found}


def main() -> None:
    if reason := missing():
        raise SystemExit(reason)
    work = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="raysparse-"))
    try:
        rows = [measured(work / f"lan-{slots}", slots) for slots in (1, 2)]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for row in rows:
        row["head_mb_in_all"] = {
            kind: sum(of[kind] for of in row["head_mb"].values()) for kind in ("processes", "resident", "own")
        }
    one, two = (row["head_mb_in_all"] for row in rows)
    rows.append({"a slot more": {kind: two[kind] - one[kind] for kind in one}})
    record.save("cluster_head", rows)
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
