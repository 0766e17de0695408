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
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_speed, record
from benchmarks.gpu_speed import Bench, Row
from raysparse.kernels import bitmask, ops, philox
from raysparse.kernels.tile_lists import tile_lists

ROOT = Path(__file__).parent.parent


def kernel_tests(bench: Bench) -> Iterator[Row]:
    """The kernels' own tests on this device: odd shapes, every dtype, every density."""
    if bench.smoke:
        return  # they are in the test suite already
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/kernels/test_triton_kernels.py"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    yield {"what": "tests/kernels/test_triton_kernels.py", "equal": done.returncode == 0, "says": done.stdout[-3000:]}


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
            ops.adam_step(values, values, m, v, None, table, table, table[0], **settings)
            tile_lists(mask, 200 * 16, 300 * 16, 16, active)
        finally:
            if not bench.smoke:
                torch.cuda.set_sync_debug_mode("default")
    yield {"what": "no waiting for the device", "equal": True}


def both(bench: Bench, operation: Any, *args: Any, mutated: int | None = None, **named: Any) -> tuple[Tensor, Tensor]:
    """(Triton on the device, reference on the CPU) of one operation; of one in place, the argument
    that it changed.
    """
    made = []
    for kernels, device in (("triton", bench.device), ("reference", "cpu")):
        moved = [a.to(device, copy=True) if isinstance(a, Tensor) else a for a in args]
        with ops.using(kernels):  # type: ignore[arg-type]
            out = operation(*moved, **{k: v.to(device) if isinstance(v, Tensor) else v for k, v in named.items()})
        made.append((out if mutated is None else moved[mutated]).cpu())
    return made[0], made[1]


def real_shapes(bench: Bench) -> Iterator[Row]:
    """A whole topology update and a step, at the shapes of real models; equal to the bit but for
    the last bits of Adam.
    """
    shapes = bench.pick([(2048, 768), (5461, 2048), (11008, 4096)], [(40, 60)])
    for (rows, columns), density in itertools.product(shapes, bench.pick((0.5, 0.125), (0.25,))):
        blocks = rows * columns
        device_mask, active = bench.mask(blocks, density)
        mask, k = device_mask.cpu(), round(0.2 * active)
        bases = bitmask.bases(mask)
        values, grad, m = torch.randn(3, active).mul_(0.02).bfloat16()
        dense, v = torch.randn(blocks, 1).bfloat16(), torch.rand(active).bfloat16()
        age = torch.randint(0, 256, (active,), dtype=torch.uint8)
        pairs = {
            "bases": both(bench, ops.bases, mask),
            "expand": both(bench, ops.expand, values, mask, bases, dense, mutated=3),
            "compact_accumulate": both(bench, ops.compact_accumulate, dense, mask, bases, grad, mutated=3),
            "weakest": both(bench, ops.weakest, values, 1, k),
            "regrow_at_random": both(bench, ops.regrow_at_random, mask, blocks, k, philox.stream(k)),
            "regrow_largest": both(bench, ops.regrow_largest, mask, dense.float().abs().view(-1), k),
            "regrow_in_rows": both(bench, ops.regrow_in_rows, mask, mask, blocks, rows, columns, 5),
        }
        dropped, grown = pairs["weakest"][1], pairs["regrow_at_random"][1]
        pairs["remove"] = both(bench, ops.remove, mask, blocks, dropped, mutated=0)
        pairs["stayed"] = both(bench, ops.stayed, grown, pairs["remove"][1] | grown, blocks, active)
        closed, reference = both(bench, ops.close_up, values, dropped, mutated=0)
        pairs["close_up"] = closed[: active - k], reference[: active - k]
        pairs["spread"] = both(bench, ops.spread, reference, pairs["stayed"][1], mutated=0)
        for name, (mine, reference) in pairs.items():
            yield {"what": name, "shape": [rows, columns], "density": density, "equal": torch.equal(mine, reference)}
        mine, reference = both(
            bench, ops.adam_step, values, grad, m, v, age, torch.rand(256) * 1e-3, torch.rand(256) + 1, mutated=0,
            gradient_factor=torch.tensor(0.7), beta1=0.9, beta2=0.999, eps=1e-8, decay=0.0, noise=philox.stream(1),
        )  # fmt: skip
        share = (mine != reference).float().mean().item()
        yield {
            "what": "adam_step",
            "shape": [rows, columns],
            "density": density,
            "unequal share": share,
            "equal": share < 1e-3,
        }


SECTIONS = {f.__name__: f for f in (kernel_tests, no_waiting, real_shapes, *gpu_speed.SECTIONS)}


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
