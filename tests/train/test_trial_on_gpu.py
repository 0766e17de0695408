"""A whole trial on "cuda" where there is none: torch's device calls are stubbed, and every
operation goes through Triton's launch path before torch answers for it.

So all that a trial does around its kernels is run as on a GPU, every kernel is compiled as a launch
would, and the losses must be those of the CPU to the bit, which says that nothing else depends on
the device.
"""

import os

import pytest

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process, and so cannot be compiled", allow_module_level=True)

from types import SimpleNamespace

import torch
from torch.overrides import TorchFunctionMode

from raysparse import counts, memory
from raysparse.files import Folder
from raysparse.kernels import ops
from raysparse.placement import Placement
from raysparse.sparsity import storage
from raysparse.train import trial
from raysparse.train.hooks import Hook
from tests import stub_gpu
from tests.conftest import small_trial

OPERATIONS = (
    "bases", "survivors", "weakest", "regrow_at_random", "regrow_largest", "regrow_in_rows", "exchange", "adam_step",
    "expand", "compact_accumulate", "rotary", "rotary_gradient", "swiglu", "swiglu_gradient", "cross_entropy",
)  # fmt: skip
NAME, PEAK = "a Hopper that is not there", 12_345


class Pretend(TorchFunctionMode):
    """torch puts on the CPU what is asked for on a CUDA device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:  # a name of a device is nothing on it yet
            return function(*args, **(kwargs or {}))
        return function(*map(on_cpu, args), **{name: on_cpu(value) for name, value in (kwargs or {}).items()})


def on_cpu(argument):
    is_cuda = isinstance(argument, torch.device | str) and str(argument).startswith("cuda")
    return torch.device("cpu") if is_cuda else argument


def launched_first(operation):
    """The operation launched on copies of its arguments, then answered by torch."""

    def call(*args, **named):
        operation(*(a.clone() if isinstance(a, torch.Tensor) else a for a in args), **named)
        with ops.using("torch"):
            return operation(*args, **named)

    return call


@pytest.fixture
def gpu(monkeypatch):
    """(launches so far, devices that were made the current one)."""
    chosen = []
    # Behind torch.cuda.set_device, which checks its argument itself, as it does on a GPU.
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    card = SimpleNamespace(total_memory=80 << 30, name=NAME)
    calls = {
        "is_available": lambda: True, "device_count": lambda: 2, "get_device_name": lambda device: NAME,
        "get_device_properties": lambda device: card, "max_memory_allocated": lambda device: PEAK,
        "empty_cache": lambda: None, "reset_peak_memory_stats": lambda device: None,
    }  # fmt: skip
    for name, call in calls.items():
        monkeypatch.setattr(torch.cuda, name, call)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # there is no driver to pin it
    for name in OPERATIONS:
        monkeypatch.setattr(ops, name, launched_first(getattr(ops, name)))
    with stub_gpu.pretended() as launches, Pretend():
        yield launches, chosen


def short(method: str, density: float = 0.25, **changes):
    """16 steps with a topology update after 8."""
    return small_trial(method, density, data={"epochs": 1.0}, **changes)


UPDATES = {"_count_digits", "_count_ties", "_choose", "_exchange", "_move", "_count_groups"}
ANY = {"_adam_step", "_cross_entropy", "_rotary", "_swiglu", "_swiglu_gradient"}
PRODUCTS = {"_expand", "_compact", *ANY}
CASES = {
    "dense": (short("dense"), ANY),
    "element": (short("smet"), PRODUCTS | UPDATES),
    "element in bfloat16": (
        short("smet", precision="bf16", optimizer={"moments": "bf16_stochastic"}), PRODUCTS | UPDATES,
    ),
    "run": (short("smet", sparsity={"layout": "run", "block": 4}), PRODUCTS | UPDATES | {"_sum_pairs"}),
    # Small tiles are expanded on a GPU; those of 64 and 128 are multiplied as tiles. So few of them
    # fill no word of a mask, so queries, keys and values are three products.
    "tile": (
        short("smet", 0.5, sparsity={"layout": "tile", "block": 8, "balanced": True, "update_ratio": 0.9}),
        PRODUCTS - {"_rotary"} | UPDATES | {"_sum_pairs", "_row_keys", "_pack"},
    ),
    "by gradient": (short("rigl"), PRODUCTS | UPDATES),
}  # fmt: skip


@pytest.fixture
def expected(request, store, tmp_path, monkeypatch):
    """The outcome on the CPU, with products joined as on a GPU; made before anything is stubbed."""
    monkeypatch.setattr(storage, "multiplied", lambda blocks, device: counts.multiplied(blocks, "cuda"))
    with ops.using("torch"):
        return trial.run(CASES[request.param][0], store, Folder(tmp_path / "cpu"))


@pytest.mark.parametrize(("case", "expected"), [(name, name) for name in CASES], indirect=["expected"], ids=list(CASES))
def test_a_trial_on_cuda_runs_to_its_end(case, expected, store, tmp_path, gpu):
    spec, kernels = CASES[case]
    launches, chosen = gpu
    outcome = trial.run(spec, store, Folder(tmp_path / "gpu"), placement=Placement(device="cuda"))
    assert (outcome.status, outcome.device) == ("completed", NAME)
    assert outcome.bytes_measured["peak"] == PEAK
    assert [e.loss for e in outcome.evaluations] == [e.loss for e in expected.evaluations]
    assert {launch.kernel for launch in launches} == kernels
    assert chosen == [], "cuda without a number is the current device"


def test_a_device_with_a_number_becomes_the_current_one(store, tmp_path, gpu):
    trial.run(short("static"), store, Folder(tmp_path), placement=Placement(device="cuda:1"))
    assert gpu[1] == [1]


def test_a_small_card_takes_smaller_passes_and_makes_layers_again(store, tmp_path, gpu, monkeypatch):
    """The same losses but for the order of sums, since the batch stays what it was."""
    spec = short("static")
    room = memory.predicted(spec, Placement(device="cuda", micro_batch=2, recompute="layer")).total
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=room / 0.9 + 1)
    )
    outcome = trial.run(spec, store, Folder(tmp_path / "small"), placement=Placement(device="cuda"))
    assert (outcome.micro_batch, outcome.recompute) == (2, "layer")
    whole = trial.run(spec, store, Folder(tmp_path / "whole"))
    assert outcome.validation_loss == pytest.approx(whole.validation_loss, rel=1e-5)


class StopAfter(Hook):
    def after_step(self, state, record):
        if record.step == 10:
            raise KeyboardInterrupt


@pytest.mark.parametrize("expected", ["element"], indirect=True)
def test_a_trial_on_cuda_is_resumed(expected, store, tmp_path, gpu):
    folder, placement = Folder(tmp_path / "gpu"), Placement(device="cuda", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        trial.run(CASES["element"][0], store, folder, placement=placement, hooks=[StopAfter()])
    outcome = trial.run(CASES["element"][0], store, folder, placement=placement)
    assert [e.loss for e in outcome.evaluations] == [e.loss for e in expected.evaluations]
