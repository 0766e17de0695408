"""Whole steps on a GPU: the sections of `gpu_check` that say whether any of it pays.

Sparse steps stand beside our dense step, and that beside a plain LLaMA in plain torch, eager and
compiled (`plain_llama`). Initial values are made on the device, since a step's time does not depend
on them.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import plain_llama
from benchmarks.gpu_bench import Bench, Row, Task, ratio
from raysparse import counts, ladder
from raysparse.data.store import prepare
from raysparse.files import Folder
from raysparse.placement import Placement
from raysparse.sparsity import storage
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.train import step as steps
from raysparse.train import trial
from raysparse.train.speed import RandomBatches
from raysparse.train.state import TrainState

TINY = ModelSpec(hidden=32, intermediate=32, layers=1, heads=2, vocab_size=50, context=16)
ELEMENT: Row = {"layout": "element"}


def sized(bench: Bench, *names: str) -> dict[str, ModelSpec]:
    found: dict[str, ModelSpec] = bench.pick({name: ladder.model(name) for name in names}, {"tiny": TINY})
    return found


def spec_of(bench: Bench, model: ModelSpec, density: float, **layout: Any) -> TrialSpec:
    """32,768 tokens a step."""
    sequences = bench.pick(128, 2)
    return TrialSpec(
        model=model,
        sparsity=SparsitySpec(method="dense" if density == 1.0 else "smet", density=density, update_every=5, **layout),
        data=DataSpec(unique_tokens=sequences * model.context * 64),
        optimizer=OptimizerSpec(moments="bf16_stochastic", batch_sequences=sequences),
        precision="bf16",
    )


def whole_steps(bench: Bench) -> Iterator[Task]:
    """Tokens a second and peak memory against our dense step of the same model, 8,192 tokens at a
    time, and the plain LLaMA's; the larger model first, for it is what users come for.
    """
    measured: dict[tuple[str, str], Row] = {}

    def against(key: tuple[str, str], measure: Callable[[], Row]) -> Row:
        row = measured[key] = measure()
        dense = measured.get((key[0], "dense"), {})
        return row | {f"{what} / dense": ratio(row.get(what), dense.get(what)) for what in ("tokens/s", "peak bytes")}

    for name, model in sized(bench, "smet-1b", "smet-130m").items():
        # 5461 is slow in any library; 5504 divides by 128, for tiles and dense alike.
        model = model if model.intermediate != 5461 else model.replace(intermediate=5504, name="")
        cases: list[tuple[str, Callable[[], Row]]] = [
            ("dense", partial(our_step, bench, model, 1.0)),
            ("plain, compiled", partial(plain_step, bench, model, compiled=True)),
            ("plain, eager", partial(plain_step, bench, model, compiled=False)),
            ("dense, compiled", partial(our_step, bench, model, 1.0, compiled=True)),
        ]
        for density in bench.pick((0.25, 0.125), (0.25,)):
            cases += [
                (f"element {density}", partial(our_step, bench, model, density)),
                (f"resident {density}", partial(our_step, bench, model, density, resident=True)),
            ]
            for side in bench.pick((64, 128), (16,)):
                if not (model.intermediate % side or model.hidden % side):
                    tiles = {"layout": "tile", "block": side}
                    cases.append((f"tile {side} {density}", partial(our_step, bench, model, density, **tiles)))
        cases.append(("element 0.125, layers again", partial(our_step, bench, model, 0.125, recompute="layer")))
        for what, measure in bench.pick(cases, [cases[0], cases[1], cases[-1]]):
            yield {"model": name, "what": what}, partial(against, (name, what), measure)


def cheap_state(bench: Bench, spec: TrialSpec, placement: Placement) -> TrainState:
    """A state whose matrices get their first values on the device."""
    real = storage._initial_values
    storage._initial_values = lambda seed, number, shape: torch.randn(shape, device=bench.device) * 0.02
    try:
        return TrainState(spec, placement)
    finally:
        storage._initial_values = real


def our_step(
    bench: Bench, model: ModelSpec, density: float, *, compiled: bool = False, resident: bool = False,
    recompute: Any = "none", **layout: Any,
) -> Row:  # fmt: skip
    """Seconds and peak bytes of a training step after warm-up, and of a topology update."""
    # Tile products at any density: that is the question.
    counts.TILE_BREAK_EVEN[bench.device, "bf16", layout.get("block", 1)] = 1.0
    spec = spec_of(bench, model, density, **layout)
    place = Placement(
        device=bench.device, micro_batch=bench.pick(32, 1), resident=resident, recompute=recompute,
        compile=compiled and not bench.smoke,
    )  # fmt: skip
    state = cheap_state(bench, spec, place)
    batches: Any = RandomBatches(spec)
    row = timed(bench, spec, lambda: steps.train_step(state, batches).loss)
    row["held"] = state.bytes_by_kind()
    for _ in range(2 if spec.sparsity.changes_topology else 0):  # the first compiles
        bench.forget_peak()
        started = time.perf_counter()
        state.topology.update(state.weights, 5)
        row |= {"update peak bytes": bench.peak(), "update s": time.perf_counter() - started}
    return row


def plain_step(bench: Bench, model: ModelSpec, *, compiled: bool) -> Row:
    spec = spec_of(bench, model, 1.0)
    rows: Tensor = torch.from_numpy(RandomBatches(spec).rows).to(bench.device)
    made = plain_llama.stepper(
        model, rows, micro_batch=bench.pick(32, 1), precision="bf16", compiled=compiled and not bench.smoke
    )
    return timed(bench, spec, made)


def timed(bench: Bench, spec: TrialSpec, step: Callable[[], float]) -> Row:
    """Median seconds of five steps after three, each of which waits for the device once."""
    for _ in range(bench.pick(3, 0)):
        step()
    bench.forget_peak()
    times = []
    for _ in range(bench.pick(5, 1)):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    return {"s": seconds, "tokens/s": spec.tokens_per_step / seconds, "peak bytes": bench.peak()}


def profile(bench: Bench, out: Path) -> Iterator[Task]:
    """Where the time of a step goes: the ten dearest kernels, and a trace for chrome://tracing."""
    for name, model in sized(bench, "smet-130m").items():
        yield {"model": name, "density": 0.25}, partial(_profile, bench, model, out)


def _profile(bench: Bench, model: ModelSpec, out: Path) -> Row:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    spec = spec_of(bench, model, 0.25)
    state = cheap_state(bench, spec, Placement(device=bench.device, micro_batch=bench.pick(32, 2)))
    batches: Any = RandomBatches(spec)
    for _ in range(bench.pick(3, 0)):
        steps.train_step(state, batches)
    kinds = [ProfilerActivity.CPU] + ([] if bench.smoke else [ProfilerActivity.CUDA])
    with record(activities=kinds) as found:
        steps.train_step(state, batches)
        if not bench.smoke:
            torch.cuda.synchronize()
    found.export_chrome_trace(str(out / f"trace-{spec.model.name or 'tiny'}.json"))
    key = "self_cpu_time_total" if bench.smoke else "self_device_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, key))
    return {"us": {event.key[:60]: getattr(event, key) for event in events[:10]}}


def a_trial(bench: Bench) -> Iterator[Task]:
    """`trial.run` from its first line to its last, of every layout: it learns, recomputation
    changes no bit of it, and resumed it ends as it would have.
    """
    for layout, block in bench.pick((("element", 1), ("run", 4), ("tile", 64)), (("tile", 16),)):
        yield {"layout": layout}, partial(_trial, bench, {"layout": layout, "block": block})


def _trial(bench: Bench, layout: Row) -> Row:
    model = bench.pick(
        ModelSpec(hidden=256, intermediate=704, layers=4, heads=4, vocab_size=257, context=128),
        TINY.replace(vocab_size=257),
    )
    data = DataSpec(corpus=str(Path(trial.__file__).parent), unique_tokens=bench.pick(16_385, 97),
                    epochs=bench.pick(4.0, 1.0), validation_tokens=bench.pick(2_000, 40))  # fmt: skip
    spec = TrialSpec(
        model=model, sparsity=SparsitySpec(density=0.25, update_every=bench.pick(10, 2), **layout), data=data,
        optimizer=OptimizerSpec(batch_sequences=bench.pick(8, 2), lr=3e-3), precision="bf16_master", evaluations=2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        tokens = Folder(Path(folder, "tokens"))
        store = prepare(tokens, data.corpus, "bytes", train_tokens=data.unique_tokens, validation_tokens=2_000)
        place = Placement(device=bench.device, checkpoint_seconds=0.5)
        outcome = trial.run(spec, store, Folder(Path(folder, "once")), placement=place)
        again = trial.run(spec, store, Folder(Path(folder, "again")), placement=place.replace(recompute="layer"))
    learned = outcome.validation_loss is not None and outcome.validation_loss < bench.pick(4.0, 6.0)
    same = outcome.evaluations == again.evaluations
    return {
        "equal": outcome.status == "completed" and learned and same, "status": outcome.status,
        "validation loss": outcome.validation_loss, "again": again.validation_loss, "seconds": outcome.seconds,
        "peak bytes": outcome.bytes_measured.get("peak"), "micro-batch": outcome.micro_batch,
    }  # fmt: skip


def no_waiting(bench: Bench) -> Iterator[Task]:
    """A whole step and a topology update make the host wait for the device once, for the step's
    loss and norm: torch raises if another of their calls does.
    """
    for layout, block in bench.pick((("element", 1), ("run", 4), ("tile", 64)), (("element", 1),)):
        yield {"layout": layout}, partial(_no_waiting, bench, {"layout": layout, "block": block})


def _no_waiting(bench: Bench, layout: Row) -> Row:
    model = bench.pick(ModelSpec(hidden=512, intermediate=1408, layers=2, heads=8), TINY)
    spec = spec_of(bench, model, 0.125, **layout)
    state = cheap_state(bench, spec, Placement(device=bench.device, micro_batch=bench.pick(32, 2)))
    batches: Any = RandomBatches(spec)
    read, reads = steps.read_back, []

    def read_back(loss: Tensor, norm: Tensor) -> tuple[float, float]:
        with waiting(bench, "default"):
            reads.append(read(loss, norm))
        return reads[-1]

    steps.read_back = read_back
    try:
        modes = bench.pick(("default", "error"), ("error",))  # once before, to compile
        for mode in modes:
            with waiting(bench, mode):
                steps.train_step(state, batches)
                state.topology.update(state.weights, 5)
                steps.train_step(state, batches)
    finally:
        steps.read_back = read
    return {"equal": len(reads) == 2 * len(modes), "reads a step": len(reads) / (2 * len(modes))}


def waiting(bench: Bench, mode: str) -> Any:
    """What torch does inside the `with` when a call waits for the device."""
    if bench.smoke:
        return nullcontext()
    return _Mode(mode)


class _Mode:
    def __init__(self, mode: str):
        self.mode = mode

    def __enter__(self) -> None:
        self.before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode(self.mode)

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode(self.before)
