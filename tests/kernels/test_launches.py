"""How often a GPU is told to start something: launches cost the host time, and a step or an update
of many small ones waits for the host.

Counted are the launches of Triton's kernels by the stub driver and, on "meta" tensors, torch's
operations that would launch something: all but views and those that only make memory. An operation
of torch counts once, though some (scans, sorts) are several launches on a GPU; norms and attention,
which are one there, count as the dozens that torch makes of them without one.
"""

import os
from collections import Counter

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process, and so cannot be compiled", allow_module_level=True)

from torch.utils._python_dispatch import TorchDispatchMode

from raysparse import counts
from raysparse.placement import Placement
from raysparse.spec import ModelSpec
from raysparse.train.state import TrainState
from tests import stub_gpu
from tests.conftest import small_trial

AN_UPDATE, ELEMENT_LAYER, TILE_LAYER, EVERYTHING = 45, 13, 15, 125
STORAGE = ("_expand", "_compact", "_product", "_weight_gradient")
BETWEEN = {"_rotary": 2, "_swiglu": 1, "_swiglu_gradient": 1}
LAYOUTS = {
    "element": {"layout": "element"},
    "run": {"layout": "run", "block": 4},
    "small tile": {"layout": "tile", "block": 8},
    "tile": {"layout": "tile", "block": 64, "balanced": True},
}


class TorchLaunches(TorchDispatchMode):
    """Names of the operations that would launch something."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).removeprefix("aten.").partition(".")[0]
        if not function.is_view and name not in ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view"):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def trial(layout: str, layers: int = 1, **changes):
    model = ModelSpec(hidden=512, intermediate=1024, layers=layers, heads=2, vocab_size=257, context=32)
    return small_trial("smet", 0.25, precision="bf16_master", model=model, sparsity=LAYOUTS[layout], **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_topology_update_is_few_launches_a_matrix(layout):
    """With everything that a state can have: moments, ages and averages."""
    with stub_gpu.pretended() as launches:
        state = TrainState(trial(layout, optimizer={"average": 0.1}), Placement(device="meta"))
        before = len(launches)
        with TorchLaunches() as others:
            state.topology.update(state.weights, state.spec.sparsity.update_every)
    assert (len(launches) - before + len(others.names)) / len(state.weights.matrices) <= AN_UPDATE


def launches_of_a_layer(layout: str) -> Counter[str]:
    """By name, forward and backward: what a second layer adds to a pass."""
    found = []
    for layers in (1, 2):
        spec = trial(layout, layers)
        with stub_gpu.pretended() as launches:
            state = TrainState(spec, Placement(device="meta"))
            rows = torch.empty(4, spec.model.context + 1, dtype=torch.int64, device="meta")
            state.model(rows).backward()  # makes what is kept until the topology changes
            launches.clear()
            with TorchLaunches() as others:
                state.model(rows).backward()
        found.append(Counter([one.kernel for one in launches] + others.names))
    return found[1] - found[0]


@pytest.mark.parametrize(("layout", "most"), [("element", ELEMENT_LAYER), ("run", ELEMENT_LAYER), ("tile", TILE_LAYER)])
def test_a_layer_is_few_launches(layout, most, monkeypatch):
    """Queries, keys and values go through one product, and so do gate and up; what lies between
    products is four launches, and torch's own are few enough.
    """
    monkeypatch.setitem(counts.TILE_BREAK_EVEN, ("meta", "bf16", 64), 1.0)
    found = launches_of_a_layer(layout)
    assert 0 < sum(found[name] for name in STORAGE) <= most
    assert {name: found[name] for name in BETWEEN} == BETWEEN
    assert found.total() <= EVERYTHING
