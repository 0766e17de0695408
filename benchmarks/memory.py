"""Bytes per weight of the sparse matrices, by design and density, and the peak of what a step and
an update need besides.

Run it: `python -m benchmarks.memory`, with `--transients` for its second part (minutes). Ours is
measured: sizes of the storages that a model really holds. The two designs it is compared with are
models: dense Adam (values, gradient and two moments of every weight), and the storage of the
released SMET code at block size 1 as read from it: a dense bf16 weight, and for each active weight
a 2-byte gradient, two 2-byte moments, a 4-byte index, a 2-byte age and a second 4-byte index for
its gradient hook.
"""

from __future__ import annotations

import sys
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import record
from raysparse.counts import Blocks
from raysparse.sparsity.layout import Layout
from raysparse.sparsity.optimizer import Group, Smet
from raysparse.sparsity.storage import SparseWeights
from raysparse.sparsity.topology import Topology
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, SparsitySpec, TrialSpec

DENSITIES = [0.5, 0.25, 0.125, 0.0625]
SHAPE = ModelSpec(hidden=512, intermediate=1408, layers=2, heads=8)
DESIGNS: dict[str, dict[str, Any]] = {
    "element, bf16, stochastic moments": {"precision": "bf16", "moments": "bf16_stochastic"},
    "element, bf16, fp32 moments": {"precision": "bf16", "moments": "fp32"},
    "run 4, bf16, stochastic moments": {"precision": "bf16", "moments": "bf16_stochastic", "layout": "run", "block": 4},
    "tile 64, bf16, stochastic moments": {
        "precision": "bf16",
        "moments": "bf16_stochastic",
        "layout": "tile",
        "block": 64,
    },
    "tile 64, bf16, fp32 moments": {"precision": "bf16", "moments": "fp32", "layout": "tile", "block": 64},
}


def trial(
    density: float, *, precision: str, moments: str, layout: str = "element", block: int = 1, model: ModelSpec = SHAPE
) -> TrialSpec:
    return TrialSpec(
        model=model,
        sparsity=SparsitySpec(density=density, layout=layout, block=block, update_every=10),  # type: ignore[arg-type]
        data=DataSpec(unique_tokens=2**20),
        optimizer=OptimizerSpec(moments=moments, batch_sequences=16),  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
    )


def stored_bytes(spec: TrialSpec) -> float:
    """Bytes per weight of the sparse matrices, all storages but the scratch, which does not grow
    with the model.
    """
    weights = SparseWeights(spec)
    total = sum(rows * columns for rows, columns in spec.model.projections.values())
    return sum(size for kind, size in weights.bytes_by_kind().items() if kind != "scratch") / total


class PeakBytes(TorchDispatchMode):
    """Follows the memory of tensors that operations make, and keeps the peak of what is alive.
    Numpy's own is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {
            t.untyped_storage().data_ptr()
            for t in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes() and storage.data_ptr() not in inputs and id(storage) not in self.alive:
                    self.alive[id(storage)] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, id(storage), None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return result


def transient_bytes(density: float, precision: str, moments: str) -> dict[str, Any]:
    """Peak bytes that the optimizer step and a topology update need, per active weight of the
    largest layer (of LLaMA-1B).
    """
    model = ModelSpec(hidden=2048, intermediate=5461, layers=1, heads=32)
    spec = trial(density, precision=precision, moments=moments, model=model)
    weights = SparseWeights(spec)
    weights.arena.grad.normal_()
    largest = max(m.layout.shape.active_weights for m in weights.matrices.values())
    found: dict[str, Any] = {
        "values": precision,
        "moments": moments,
        "density": density,
        "active of the largest": largest,
    }
    work: dict[str, Callable[[int], Any]] = {
        "optimizer step": lambda step: Smet(spec, [Group(weights.arena)]).step(step, torch.tensor(1.0)),
        "topology update": lambda step: Topology(spec).update(weights, step),
    }
    for name, call in work.items():
        with PeakBytes():
            call(10)  # what is imported at the first call is not counted
        with PeakBytes() as of_torch:
            call(20)
        tracemalloc.start()  # on its own, or it would count what PeakBytes keeps
        call(30)
        of_numpy = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[f"{name}, bytes per active"] = (of_torch.peak + of_numpy) / largest  # as if both peaked at the same time
    return found


def layout_alone(density: float) -> float:
    """Bytes per weight of an element layout."""
    layout = Layout.random(
        "element", 1, Blocks(512, 1408, 1, 512 * 1408, round(density * 512 * 1408)), seed=0, matrix=0
    )
    assert layout.mask is not None
    return layout.mask.nbytes / (512 * 1408)


def main() -> None:
    rows: list[dict[str, Any]] = [
        {"design": "dense Adam, bf16 (model)", **{f"d = {d}": 8.0 for d in DENSITIES}},
        {"design": "released SMET code, block size 1 (model)", **{f"d = {d}": 2 + 16 * d for d in DENSITIES}},
    ]
    rows += [
        {"design": name, **{f"d = {d}": stored_bytes(trial(d, **design)) for d in DENSITIES}}
        for name, design in DESIGNS.items()
    ]
    record.show("Bytes per weight of the sparse matrices", rows)
    print(f"of which the layout of single weights: {layout_alone(0.25):.4f}")
    kinds = [("fp32", "fp32"), ("bf16", "bf16_stochastic")] if "--transients" in sys.argv else []
    transients = [transient_bytes(d, *kind) for kind in kinds for d in DENSITIES]
    if transients:
        record.show("Peak memory besides", transients)
    print(record.save("memory", [*rows, *transients]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
