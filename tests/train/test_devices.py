"""Every tensor of a step lies on the trial's device, shown on torch's "meta" device, which has
shapes and no memory.

It is as far from the CPU as a GPU is: torch refuses to mix the two. Operations are replaced by what
they return, as shapes alone.
"""

import pytest
import torch

from raysparse.kernels import ops
from raysparse.model.dropout import Dropout
from raysparse.spec import Placement
from raysparse.train.state import TrainState
from tests.conftest import small_trial

META = torch.device("meta")
# What an operation returns, as a tensor without memory; those that are not here return nothing.
SHAPES = {
    "bases": lambda mask: mask.new_empty(-(-mask.numel() // 32)),
    "stayed": lambda regrown, mask, total, active: mask.new_empty(active, dtype=torch.bool),
    "weakest": lambda values, size, k, **_: values.new_empty(values.numel() // size, dtype=torch.bool),
    "regrow_at_random": lambda mask, total, k, key: torch.empty_like(mask),
    "regrow_largest": lambda mask, scores, k: torch.empty_like(mask),
}
IN_PLACE = ("remove", "close_up", "spread", "adam_step", "expand", "compact_accumulate")


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
