"""Recomputation changes no bit of a result and keeps what was predicted; passes of any size make
the same batch.
"""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparse import memory
from raysparse.data.order import Batches
from raysparse.files import Folder
from raysparse.model.dropout import Dropout
from raysparse.placement import Placement
from raysparse.spec import ModelSpec
from raysparse.train import speed, trial
from raysparse.train.state import TrainState
from raysparse.train.step import train_step
from tests.conftest import small_trial

WAYS = ("mlp", "layer")
CASES = {
    "dense": small_trial("dense"),
    "static": small_trial("static"),
    "smet in bfloat16": small_trial("smet", precision="bf16", optimizer={"moments": "bf16_stochastic"}),
    "smet with dropout": small_trial("smet", optimizer={"dropout": 0.1}),
    "rigl": small_trial("rigl", precision="bf16_master"),
    "runs": small_trial("set", sparsity={"layout": "run", "block": 4}),
    "tiles": small_trial("smet_grad", sparsity={"layout": "tile", "block": 8}),
}


def after_steps(spec, recompute: str, *, micro_batch: int = 0, steps: int = 10):
    """(losses, all states) after a topology update and a few steps more."""
    state = TrainState(spec, Placement(recompute=recompute, micro_batch=micro_batch))
    batches = speed.RandomBatches(spec)
    losses = []
    for step in range(1, steps + 1):
        losses.append(train_step(state, batches).loss)
        if state.topology.due(step):
            state.topology.update(state.weights, step)
    return losses, [tensor for group in state.groups.values() for tensor in group.arena.states().values()]


@pytest.mark.parametrize("name", CASES)
def test_losses_and_weights_are_those_without_to_the_bit(name):
    losses, states = after_steps(CASES[name], "none")
    for way in WAYS:
        same, found = after_steps(CASES[name], way)
        assert same == losses
        assert all(torch.equal(a, b) for a, b in zip(states, found, strict=True))


def test_a_whole_trial_is_the_same_and_says_what_was_made_again(store, tmp_path):
    spec = small_trial("smet", data={"epochs": 1.0})
    outcomes = [
        trial.run(spec, store, Folder(tmp_path / way), placement=Placement(recompute=way, micro_batch=3))
        for way in ("none", "layer")
    ]
    assert outcomes[0].evaluations == outcomes[1].evaluations
    assert [(o.micro_batch, o.recompute) for o in outcomes] == [(3, "none"), (3, "layer")]


def kept_bytes(spec, recompute: str) -> int:
    """What autograd keeps of a forward pass beside parameters, counted by storage."""
    state = TrainState(spec, Placement(recompute=recompute))
    own = {t.untyped_storage().data_ptr() for t in (*state.model.parameters(), *state.model.buffers())}
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, or its address would be another tensor's
        return tensor

    rows = torch.zeros(spec.optimizer.batch_sequences, spec.model.context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        state.model(rows, Dropout.of(spec, step=1, first_row=0))
    return sum(storage.nbytes() for storage in storages.values())


SHAPES = [
    ModelSpec(hidden=64, intermediate=160, layers=2, heads=4, vocab_size=50, context=64),
    ModelSpec(hidden=32, intermediate=96, layers=3, heads=2, vocab_size=50, context=32),
    ModelSpec(hidden=48, intermediate=64, layers=4, heads=6, vocab_size=50, context=96),
]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16_master", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"hidden {shape.hidden}")
def test_the_ledger_says_what_autograd_keeps(shape, precision, dropout):
    spec = small_trial(model=shape, precision=precision, optimizer={"dropout": dropout})
    value = 4 if precision == "fp32" else 2
    # The head keeps the gradients that it made, which the ledger has under logits.
    head = shape.vocab_size * shape.hidden * (2 if precision == "bf16" else 4)
    head += value * shape.hidden * spec.tokens_per_step
    for way in ("none", *WAYS):
        predicted = memory.predicted(spec, Placement(recompute=way))
        assert predicted.activations == pytest.approx(kept_bytes(spec, way) - head, rel=0.05), way
    layers = (
        memory.predicted(spec, Placement()).activations
        - memory.predicted(spec, Placement(recompute="layer")).activations
    )
    again = memory.predicted(spec, Placement(recompute="layer")).recomputed
    stream = value * shape.hidden * spec.tokens_per_step
    assert layers == shape.layers * (again - stream), "one layer is made again at a time"


@pytest.mark.parametrize("method", ["dense", "static", "smet", "smet_grad", "rigl"])
@pytest.mark.parametrize("distribution", ["uniform", "erk"])
def test_the_ledger_says_what_an_update_by_gradient_holds(store, method, distribution):
    spec = small_trial(method, 0.7, sparsity={"update_every": 2, "distribution": distribution})
    state, batches, most = TrainState(spec, Placement(threads=1)), Batches(store, spec), 0
    for _ in range(3):
        train_step(state, batches)
        most = max(most, sum(gradient.nbytes for gradient in state.weights.dense_gradients()))
    assert memory.predicted(spec, Placement()).dense_gradients == most
    assert (most > 0) == (method in ("smet_grad", "rigl"))


@pytest.mark.parametrize("method", ["smet_grad", "rigl"])
def test_a_micro_batch_leaves_room_for_the_gradients_of_an_update(method):
    shape = ModelSpec(hidden=512, intermediate=1376, layers=8, heads=8)
    spec = small_trial(method, model=shape, optimizer={"batch_sequences": 64}, data={"unique_tokens": 100_000})
    asked, random = Placement(device="cuda", recompute="none"), spec.sparsity.replace(method="smet")
    random_trial = spec.replace(sparsity=random)
    card = int(memory.predicted(random_trial, asked.replace(micro_batch=64)).total / memory.USABLE) + 1
    assert memory.fitted(random_trial, asked, card).micro_batch == 64
    assert memory.fitted(spec, asked, card).micro_batch < 64


@given(
    micro_batch=st.integers(0, 5), workers=st.integers(1, 3), gigabytes=st.floats(0.0, 3.0), compiled=st.booleans(),
    share=st.sampled_from([0.25, 1.0]),
)  # fmt: skip
def test_what_is_chosen_fits_or_nothing_does(micro_batch, workers, gigabytes, compiled, share):
    shape = ModelSpec(hidden=512, intermediate=1376, layers=8, heads=8)
    spec = small_trial(model=shape, optimizer={"batch_sequences": 64}, data={"unique_tokens": 100_000})
    asked = Placement(micro_batch=micro_batch, workers=workers, device="cuda", compile=compiled, device_share=share)
    size = int(gigabytes * 2**30)
    chosen = memory.fitted(spec, asked, size)
    assert memory.fitted(spec, chosen, size) == chosen, "choosing again changes nothing"
    assert chosen.recompute != "auto"
    if not size:
        assert chosen == asked.replace(recompute="none")
        return
    assert 1 <= chosen.micro_batch <= max(micro_batch, memory.worker_share(spec, asked))
    smallest = asked.replace(micro_batch=micro_batch or 1, recompute="none" if compiled else "layer")
    assert memory.fits(spec, chosen, size) == memory.fits(spec, smallest, size)


def test_passes_are_as_large_as_they_can_be_and_equal():
    """20 of 64 sequences fit: four passes of 16, not three of 20 and one of 4."""
    spec = small_trial(optimizer={"batch_sequences": 64}, data={"unique_tokens": 100_000})
    card = int(memory.predicted(spec, Placement(device="cuda", micro_batch=20)).total / memory.USABLE) + 1
    asked = Placement(device="cuda", recompute="none")
    assert memory.fitted(spec, asked, card).micro_batch == 16


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_a_micro_batch_need_not_divide_the_batch(micro_batch):
    whole, some = (after_steps(CASES["static"], "none", micro_batch=size, steps=3)[0] for size in (0, micro_batch))
    assert some == pytest.approx(whole, rel=1e-5)


@given(
    fixed=st.floats(0.0, 1.0), rate=st.floats(1e6, 1e15), flops=st.tuples(st.floats(1e6, 1e9), st.floats(1e10, 1e15))
)
def test_two_steps_tell_a_rate_and_what_a_step_costs_besides(fixed, rate, flops):
    points = [(f, fixed + f / rate) for f in flops]
    found_rate, besides = speed.line(points)
    for f, seconds in points[1:]:
        assert besides + f / found_rate == pytest.approx(seconds, rel=1e-6)
    assert besides >= 0.0 < found_rate


def test_a_device_is_measured_by_training_on_it():
    sizes = [SHAPES[1], dataclasses.replace(SHAPES[1], hidden=64, intermediate=192, name="larger")]
    rate, besides, what = speed.measured([small_trial(model=m) for m in sizes], Placement(), seconds=0.0)
    assert rate > 0.0 <= besides
    assert what.endswith("larger")
