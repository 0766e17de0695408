"""Every tensor of a step lies on the trial's device, shown on torch's "meta" device, which has
shapes and no memory.

It is as far from the CPU as a GPU is: torch refuses to mix the two. Operations are replaced by what
they return, as shapes alone.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raysparse.data.order import Batches
from raysparse.kernels import ops
from raysparse.model.dropout import Dropout
from raysparse.placement import Placement
from raysparse.train import speed, step
from raysparse.train.state import TrainState
from tests.conftest import small_trial

META = torch.device("meta")
# What an operation returns, as a tensor without memory; those that are not here return nothing.
SHAPES = {
    "bases": lambda mask: mask.new_empty(-(-mask.numel() // 32)),
    "survivors": lambda mask, *_: torch.empty_like(mask),
    "weakest": lambda values, size, k, **_: values.new_empty(values.numel() // size, dtype=torch.bool),
    "regrow_at_random": lambda mask, total, k, key: torch.empty_like(mask),
    "regrow_largest": lambda mask, scores, k: torch.empty_like(mask),
}
IN_PLACE = ("exchange", "adam_step", "expand", "compact_accumulate")


def on_meta_alone(name: str):
    def call(*args, **named):
        devices = {a.device for a in (*args, *named.values()) if isinstance(a, torch.Tensor)}
        assert devices == {META}, f"{name} is given tensors on {devices}"
        return SHAPES[name](*args, **named) if name in SHAPES else None

    return call


@pytest.mark.parametrize(
    ("spec", "resident"),
    [
        (small_trial("smet"), False),
        (small_trial("smet", precision="bf16", optimizer={"moments": "bf16_stochastic"}), True),
        (small_trial("rigl", precision="bf16_master", optimizer={"average": 0.1, "dropout": 0.1}), False),
        (small_trial("smet", sparsity={"layout": "tile", "block": 8, "balanced": True}), False),
    ],
    ids=["element", "resident, bfloat16", "by gradient, averaged", "balanced tiles"],
)
def test_everything_lies_on_the_device(spec, resident, monkeypatch):
    for name in (*SHAPES, *IN_PLACE):
        monkeypatch.setattr(ops, name, on_meta_alone(name))
    state = TrainState(spec, Placement(device="meta", resident=resident))
    update = spec.sparsity.update_every
    state.weights.want_dense_gradients(state.topology.needs_gradients(update))
    rows = torch.empty(4, spec.model.context + 1, dtype=torch.int64, device=META)
    loss = state.model(rows, Dropout.of(spec, step=update, first_row=0))
    loss.backward()
    norm = state.optimizer.gradient_norm()
    state.optimizer.step(update, state.optimizer.clip_factor(norm))
    state.topology.update(state.weights, update)
    assert {loss.device, norm.device} == {META}
    assert all(part.device == META for group in state.groups.values() for part in group.arena.states().values())
    if spec.optimizer.average:
        with state.averaged(), torch.no_grad():
            assert state.model(rows).device == META


class Copies(TorchDispatchMode):
    """Keeps whether each copy from the CPU to the device was one that waits."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        sources = {a.device.type for a in args if isinstance(a, torch.Tensor)}
        if "cpu" in sources and isinstance(made, torch.Tensor) and made.device == META:
            asked = (kwargs or {}).get("non_blocking", False) or (function is torch.ops.aten.copy_.default and args[-1])
            self.waits.append(not asked)
        return made


@pytest.mark.parametrize(
    "spec",
    [
        small_trial("smet", precision="bf16", optimizer={"moments": "bf16_stochastic", "dropout": 0.1}),
        small_trial("smet_grad", optimizer={"average": 0.1}),
        small_trial("smet", sparsity={"layout": "tile", "block": 8, "balanced": True}),
    ],
    ids=["bfloat16 with dropout", "by gradient, averaged", "balanced tiles"],
)
def test_a_step_waits_for_the_device_once(spec, monkeypatch):
    """For its loss and norm, together. Nothing else in steps and a topology update asks the device
    for a number (torch refuses to read one from "meta"), and no copy to it is one that waits.
    """
    for name in (*SHAPES, *IN_PLACE):
        monkeypatch.setattr(ops, name, on_meta_alone(name))
    read = []
    monkeypatch.setattr(step, "read_back", lambda loss, norm: read.append({loss.device, norm.device}) or (1.0, 1.0))
    state, batches = TrainState(spec, Placement(device="meta", micro_batch=2)), speed.RandomBatches(spec)
    with Copies() as copies:
        for _ in range(spec.sparsity.update_every):
            step.train_step(state, batches)
        state.topology.update(state.weights, spec.sparsity.update_every)
        step.train_step(state, batches)
    assert read == [{META}] * (spec.sparsity.update_every + 1)
    rows_and_tables = 3  # a step: its two micro-batches, and one table for all groups; the first rows came once more
    assert copies.waits == [False] * (rows_and_tables * len(read) + 1)


def test_rows_fetched_ahead_are_those_of_the_step(store):
    """Also after the state was put elsewhere in the run."""
    spec = small_trial("static")
    state, batches = TrainState(spec, Placement(micro_batch=3)), Batches(store, spec)
    step.train_step(state, batches)
    assert state.fetched[0] == (1, 0, 3)
    assert torch.equal(state.fetched[1], torch.from_numpy(batches.train(1, 0, 3)))
    state.step = 5
    rows = step.take_rows(state, batches, 5, 0, 3)
    assert torch.equal(rows, torch.from_numpy(batches.train(5, 0, 3)))
