"""Everything that only a GPU can tell, in one call: every kernel against its reference, then what
they cost (`gpu_speed`).

Run it on a machine with a GPU: `python -m benchmarks.gpu_check` (about ten minutes; `--only` takes
some sections). It needs torch, triton, numpy, pyarrow, rich and pytest, not ray. Rows go to
gpu_check.json in --out, else in $OUT, else in benchmarks/results, after every section, so that a
run that is cut off leaves what it had. A row that fails keeps its error, the rest goes on, and the
exit status is 1.

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
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from benchmarks import gpu_speed, record
from benchmarks.gpu_speed import Bench, Row
from raysparse.kernels import ops
from raysparse.kernels.tile_lists import tile_lists
from tests.kernels import conformance


def small_shapes(bench: Bench) -> Iterator[Row]:
    """The conformance suite on this device: odd shapes, every dtype, every density."""
    for name, make in () if bench.smoke else conformance.CASES.items():  # the test suite has them interpreted
        yield {"what": name, **verdict(make, bench)}


def verdict(make: Callable[..., conformance.Case], bench: Bench) -> Row:
    """Whether Triton's answer to a case is the plain one, and how it differs."""
    try:
        conformance.check(make(device=bench.device), "triton")
    except AssertionError as error:
        return {"equal": False, "says": str(error)[:500]}
    return {"equal": True}


def no_waiting(bench: Bench) -> Iterator[Row]:
    """A topology update and an optimizer step never make the host wait for the device: torch raises
    if one of its calls does.
    """
    mask, active = bench.mask(60_000, 0.3)
    values, (m, v) = torch.randn(active, device=bench.device), torch.zeros(2, active, device=bench.device)
    table, k = torch.ones(256, device=bench.device), active // 5
    settings: Row = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "decay": 0.0, "noise": 7}
    for is_strict in (False, True):  # once before, to compile
        if not bench.smoke:
            torch.cuda.set_sync_debug_mode("error" if is_strict else "default")
        try:
            dropped, grown = ops.weakest(values, 1, k), ops.regrow_at_random(mask, 60_000, k, 5)
            new = mask.clone()
            ops.remove(new, 60_000, dropped)
            new.bitwise_or_(grown)
            ops.regrow_in_rows(mask, new, 60_000, 200, 90, 5)
            ops.close_up(values, dropped)
            ops.spread(values, ops.stayed(grown, new, 60_000, active))
            ops.expand(values, mask, ops.bases(mask), torch.empty(60_000, 1, device=bench.device))
            ops.adam_step(values, values, m, v, None, table, table, gradient_factor=table[0], **settings)
            tile_lists(mask, 200 * 16, 300 * 16, 16, active)
        finally:
            if not bench.smoke:
                torch.cuda.set_sync_debug_mode("default")
    yield {"what": "no waiting for the device", "equal": True}


def real_shapes(bench: Bench) -> Iterator[Row]:
    """A whole topology update and a step, at the shapes of real models."""
    bf16 = torch.bfloat16
    shapes = bench.pick([(2048, 768), (5461, 2048), (11008, 4096)], [(40, 60)])
    for (rows, columns), density in itertools.product(shapes, bench.pick((0.5, 0.125), (0.25,))):
        blocks, active = rows * columns, round(density * rows * columns)
        cases = [
            partial(conformance.bases, blocks, density),
            partial(conformance.remove, blocks, density),
            partial(conformance.stayed, blocks, density),
            partial(conformance.weakest, active, 1, 0.2, bf16, False),
            partial(conformance.regrow_at_random, blocks, density, 0.2 * density),
            partial(conformance.regrow_largest, blocks, density, 0.2 * density),
            partial(conformance.regrow_in_rows, rows, columns, round(density * columns), False),
            partial(conformance.expand, (blocks, 1), density, bf16, bf16),
            partial(conformance.compact_accumulate, (blocks, 1), density, bf16, bf16),
            partial(conformance.close_up, active, 1, bf16),
            partial(conformance.spread, active, 1, bf16),
            partial(conformance.adam_step, active, 1, bf16, bf16, 0),
        ]
        for case in cases:
            yield {"what": case.func.__name__, "shape": [rows, columns], "density": density, **verdict(case, bench)}


SECTIONS = {f.__name__: f for f in (small_shapes, no_waiting, real_shapes, *gpu_speed.SECTIONS)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes in Triton's interpreter, on a CPU")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", Path(__file__).parent / "results")))
    args = parser.parse_args()
    if args.smoke and os.environ.get("TRITON_INTERPRET") != "1":  # a mode of the whole process: begin again in it
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "TRITON_INTERPRET": "1"})
    if not (args.smoke or torch.cuda.is_available()):
        parser.error("there is no GPU here; --smoke runs this script in Triton's interpreter")
    import triton

    bench, rows = Bench(smoke=args.smoke), []
    command = shlex.join(["python", "-m", "benchmarks.gpu_check", *sys.argv[1:]])
    head = {"date": f"{datetime.date.today()}", "command": command, **record.machine(), "triton": triton.__version__}
    torch.manual_seed(0)
    for name in args.only:
        with ops.using("triton") if args.smoke else nullcontext():
            try:
                for row in SECTIONS[name](bench):
                    rows.append({"section": name, **row})
                    print(json.dumps(rows[-1]), flush=True)
            except Exception:
                rows.append({"section": name, "error": traceback.format_exc()})
                print(rows[-1]["error"], flush=True)
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "gpu_check.json").write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    failed = [row for row in rows if "error" in row or row.get("equal") is False]
    print(f"{len(rows)} rows, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
