"""Everything that only a GPU can tell, in one call of ten minutes: whole steps first, then every
kernel against plain answers, then what the kernels cost.

Run it on a machine with a GPU: `python -m benchmarks.gpu_check` (`--only` takes some sections). It
needs torch, triton, numpy, pyarrow, rich and pytest, not ray. A JSON line per row goes to
gpu_check.jsonl in --out, else in $OUT, else in benchmarks/results, as it comes: a call that is cut
off leaves what it had. A row that fails keeps its error, the rest goes on, and the exit status is
1. Before every section stand the card's clocks and the bandwidth of a copy.

`--smoke` does the same with tiny shapes in Triton's interpreter on a CPU. It times nothing: it is
how the script itself is tested.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import gpu_speed, gpu_steps, record
from benchmarks.gpu_bench import Bench, Row, Task
from raysparse.kernels import ops
from tests.kernels import cases, conformance


def small_shapes(bench: Bench) -> Iterator[Task]:
    """The conformance suite on this device: odd shapes, every dtype, every density."""
    for name, make in () if bench.smoke else conformance.CASES.items():  # the test suite has them interpreted
        yield {"what": name}, partial(verdict, make, bench)


def verdict(make: Callable[..., cases.Case], bench: Bench) -> Row:
    """Whether Triton's answer to a case is the plain one, and how it differs."""
    try:
        cases.check(make(device=bench.device), "triton")
    except AssertionError as error:
        return {"equal": False, "says": str(error)[:500]}
    return {"equal": True}


def real_shapes(bench: Bench) -> Iterator[Task]:
    """A whole topology update and a step, at the shapes of real models."""
    bf16 = torch.bfloat16
    shapes = bench.pick([(2048, 768), (5461, 2048), (11008, 4096)], [(40, 60)])
    for (rows, columns), density in itertools.product(shapes, bench.pick((0.5, 0.125), (0.25,))):
        blocks, active = rows * columns, round(density * rows * columns)
        made = [
            partial(conformance.bases, blocks, density),
            partial(conformance.survivors, blocks, density),
            partial(conformance.weakest, active, 1, 0.2, bf16, False),
            partial(conformance.regrow_at_random, blocks, density, 0.2 * density),
            partial(conformance.regrow_largest, blocks, density, 0.2 * density),
            partial(conformance.regrow_in_rows, rows, columns, round(density * columns), False),
            partial(conformance.expand, (blocks, 1), density, bf16, bf16),
            partial(conformance.compact_accumulate, (blocks, 1), density, bf16, bf16),
            partial(conformance.exchange, (blocks, 1), density, bf16),
            partial(conformance.adam_step, active, 1, bf16, bf16),
        ]
        for case in made:
            what = {"what": case.func.__name__, "shape": [rows, columns], "density": density}
            yield what, partial(verdict, case, bench)


class Section(NamedTuple):
    run: Callable[..., Iterator[Task]]
    seconds: int  # that it should take on an H100, an estimate: the script has not run on one
    is_first: bool = True  # part of the call of ten minutes; the others make a second one, by --only


# What matters most first, so that a call that is cut off has it.
SECTIONS = {
    "no_waiting": Section(gpu_steps.no_waiting, 20),
    "a_trial": Section(gpu_steps.a_trial, 45),
    "whole_steps": Section(gpu_steps.whole_steps, 210),
    "profile": Section(gpu_steps.profile, 15),
    "real_shapes": Section(real_shapes, 45),
    "adam": Section(gpu_speed.adam, 15),
    "storage": Section(gpu_speed.storage, 25),
    "tile_products": Section(gpu_speed.tile_products, 60),
    "head": Section(gpu_speed.head, 15),
    "between_products": Section(gpu_speed.between_products, 10),
    "small_shapes": Section(small_shapes, 130, is_first=False),  # some 130 kernels to compile
    "tile_cuts": Section(gpu_speed.tile_cuts, 80, is_first=False),
}


def tasks(bench: Bench, name: str, out: Path) -> Iterator[Task]:
    run = SECTIONS[name].run
    return run(bench, out) if name == "profile" else run(bench)


def rows_of(bench: Bench, names: list[str], out: Path, until: float) -> Iterator[Row]:
    """Every row as it comes. One that fails holds its error, those after it are measured all the
    same; what there is no time for is said.
    """
    for name in names:
        yield {"section": name, "what": "condition", **attempt(bench.condition)}
        try:
            for what, measure in tasks(bench, name, out):
                if time.monotonic() > until:
                    yield {"section": name, **what, "left out": "no time was left"}
                    continue
                started = time.monotonic()
                found = attempt(measure)
                yield {"section": name, **what, **found, "took s": round(time.monotonic() - started, 2)}
        except Exception:
            yield {"section": name, "error": traceback.format_exc()}


def attempt(measure: Callable[[], Row]) -> Row:
    """Its row, or a row with its error: one shape that does not fit must not cost the others."""
    try:
        return measure()
    except Exception:
        return {"error": traceback.format_exc()}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def main() -> int:
    first = [name for name, section in SECTIONS.items() if section.is_first]
    others = [name for name in SECTIONS if name not in first]
    about = f"(by default {', '.join(first)}; {' '.join(others)} in a second call)"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes in Triton's interpreter, on a CPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=first, help=about)
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no row after this (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", Path(__file__).parent / "results")))
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    if args.smoke and os.environ.get("TRITON_INTERPRET") != "1":  # a mode of the whole process: begin again in it
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "TRITON_INTERPRET": "1"})
    if not (args.smoke or torch.cuda.is_available()):
        parser.error("there is no GPU here; --smoke runs this script in Triton's interpreter")
    import triton

    bench, count, failed = Bench(smoke=args.smoke), 0, 0
    command = shlex.join(["python", "-m", "benchmarks.gpu_check", *sys.argv[1:]])
    head = {"date": f"{datetime.date.today()}", "command": command, **record.machine(), "triton": triton.__version__}
    head["estimate s"] = sum(SECTIONS[name].seconds for name in args.only)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "gpu_check.jsonl").open("w") as file, ops.using("triton") if args.smoke else nullcontext():
        for row in itertools.chain([head], rows_of(bench, args.only, args.out, until)):
            line = json.dumps(row)
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()
            count, failed = count + 1, failed + ("error" in row or row.get("equal") is False)
    print(f"{count - 1} rows, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
