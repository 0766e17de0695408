"""Every tensor of a step lies on the trial's device, shown on torch's "meta" device, which has
shapes and no memory.

It is as far from the CPU as a GPU is: torch refuses to mix the two. The kernels are the operators'
fake twins, which know shapes alone.
"""

import pytest
import torch

from raysparse.kernels import ops
from raysparse.model.dropout import Dropout
from raysparse.spec import Placement
from raysparse.train.state import TrainState
from tests.conftest import small_trial

OPERATIONS = (
    "bases", "remove", "stayed", "weakest", "regrow_at_random", "regrow_largest", "close_up", "spread", "adam_step",
    "expand", "compact_accumulate",
)  # fmt: skip
META = torch.device("meta")


def on_meta_alone(name: str):
    operator = getattr(torch.ops.raysparse, name)

    def call(*args, **named):
        devices = {a.device for a in (*args, *named.values()) if isinstance(a, torch.Tensor)}
        assert devices == {META}, f"{name} is given tensors on {devices}"
        return operator(*map(ops._signed, args), **{key: ops._signed(value) for key, value in named.items()})

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
    for name in OPERATIONS:
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
