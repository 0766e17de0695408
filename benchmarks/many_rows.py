"""How long a sweep of ten thousand finished trials takes to look at: status, `--plan`, starting it
again, and reading its table; each in a process of its own, with its memory.

The run folder is made through the records that a sweep makes it with; only the losses are computed
by a formula and not trained. `--store s3` makes it on an S3 server on this machine (moto) and lets
every request wait 40 ms.

    python -m benchmarks.many_rows --rows 10000
    python -m benchmarks.many_rows --rows 1000 --store s3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import earlier, save
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.results import Evaluation, Outcome, Results, make_row
from raysparse.run_folder import RunFolder
from raysparse.spec import DataSpec, OptimizerSpec
from raysparse.sweep.budget import Work, save_work
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from tests.object_store.server import CREDENTIALS, Server, running

PER_SEED = 4 * 5 * 5  # points of the grid below
WAIT = 0.04  # seconds a request
MOMENT = 3.0  # seconds: more than the clock of an object store stands still
RUN = "many"
# What is timed: the words behind `python -m`, {folder} being the run folder.
VERBS = {
    "status": ["raysparse", "status", "{folder}"],
    "plan": ["raysparse", "plan", "{folder}"],
    "restart": ["raysparse", "sweep", "{folder}", "--storage", "{storage}", "--name", RUN, "--executor", "inline"],
    "table": ["benchmarks.many_rows", "--read", "{folder}"],
}
MEASURED = (
    "import os, resource, runpy, sys, time; began = time.perf_counter(); sys.argv = sys.argv[1:]\n"
    "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=False)\n"
    "finally:\n"
    " used = resource.getrusage(resource.RUSAGE_SELF)\n"
    " cpu = used.ru_utime + used.ru_stime\n"
    " print(f'MEASURED {time.perf_counter() - began} {cpu} {used.ru_maxrss}', file=sys.stderr, flush=True)\n"
)


def plan(rows: int) -> Plan:
    """A grid of so many trials."""
    recipe = Recipe(
        vocab_size=257, context=64, data=DataSpec(corpus="python", validation_tokens=4_096),
        optimizer=OptimizerSpec(batch_sequences=4),
    )  # fmt: skip
    specs = grid(
        recipe,
        sizes=("laptop-xs", "laptop-s", "laptop-m", "laptop-l"),
        densities=(1.0, 0.5, 0.25, 0.125, 0.0625),
        unique_tokens=(16_384,),
        epochs=(1, 2, 4, 8, 16),
        seeds=tuple(range(-(-rows // PER_SEED))),
    )
    return Plan(specs=specs[:rows])


def fabricate(folder: RunFolder, rows: int) -> None:
    """A run folder in which all trials of the plan are finished."""
    made, results = plan(rows), Results(folder)
    made.save(folder)
    for spec in made.specs:
        if spec is made.specs[-1]:  # the table holds what is older than the last moment; trained rows come slowly
            time.sleep(MOMENT)
        loss = 2.0 + 5.0 / spec.data.epochs**0.3 + 0.1 * spec.sparsity.density + 0.001 * spec.seed
        at = [Evaluation(spec.steps * n // 8, spec.tokens * n // 8, loss + 0.05 * (8 - n)) for n in range(1, 9)]
        outcome = Outcome(
            status="completed", train_loss=loss, validation_loss=loss, evaluations=tuple(at), steps=spec.steps,
            tokens=spec.tokens, seconds=1.0, seconds_total=1.5, device="x86_64 CPU", corpus_fingerprint="0" * 64,
        )  # fmt: skip
        results.record(make_row(spec, Placement(), outcome))
    save_work(folder, {spec.trial_id: Work(spec.steps, 1.0) for spec in made.specs})
    results.compact()


def measure(folder: RunFolder, server: Server | None) -> Iterator[dict[str, Any]]:
    """A row for each verb: seconds of the command after Python's own start, CPU seconds, memory."""
    for verb, words in VERBS.items():
        said = [word.format(folder=folder.uri, storage=folder.storage.uri) for word in words]
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", MEASURED, *said], capture_output=True, text=True, check=False)
        found = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("MEASURED")]
        if done.returncode or not found:
            raise RuntimeError(f"{' '.join(said)} ended with {done.returncode}: {done.stderr[-2000:]}")
        seconds, cpu, peak = found[0]
        asked = len(server.requests()) if server is not None else 0
        yield {
            "verb": verb, "seconds": round(float(seconds), 3), "cpu_seconds": round(float(cpu), 3),
            "peak_mib": round(int(peak) / 1024),
            "wall_seconds": round(time.perf_counter() - began, 3), "requests": asked,
        }  # fmt: skip


@contextlib.contextmanager
def storage(kind: str) -> Iterator[tuple[Folder, Server | None]]:
    if kind == "disk":
        with tempfile.TemporaryDirectory(prefix="raysparse-many-") as here:
            yield Folder(here), None
    else:
        os.environ.update(CREDENTIALS)
        with running() as server:
            yield Folder(server.uri("runs")), server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--store", choices=("disk", "s3"), default="disk")
    parser.add_argument("--read", metavar="FOLDER", help="read the table as the analysis does, and nothing else")
    args = parser.parse_args()
    if args.read:
        from analysis.data.table import read_table

        print(f"{len(read_table(args.read).excluded)} rows excluded")
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    with storage(args.store) as (place, server):
        folder = RunFolder.named(place, RUN)
        began = time.perf_counter()
        fabricate(folder, args.rows)
        print(f"{args.rows} rows made in {time.perf_counter() - began:.1f} s")
        if server is not None:
            server.requests()
            server.wait(WAIT)
        found = [{"rows": args.rows, "store": args.store, **row} for row in measure(folder, server)]
    for row in found:
        print(json.dumps(row))
    others = [r for r in earlier("many_rows") if (r["rows"], r["store"]) != (args.rows, args.store)]
    save("many_rows", [*others, *found])


if __name__ == "__main__":
    main()
