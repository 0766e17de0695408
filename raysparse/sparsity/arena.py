"""Flat storage for all weights of a kind, one slot per active weight: values, gradients, moments,
ages, average.

Everything that lives as long as a run lies in arenas, and matrices and parameters are views of
them. The optimizer, the all-reduce and the checkpoint then see a handful of tensors whatever the
depth of the model.

Ages are kept as the number of topology updates since a block was regrown, one byte a block. 255
means "since the start of training, or so long ago that it makes no difference" (`FROM_THE_START`):
with an `update_every` of 10 a weight's step grows by 1.5 % when it gets there, with 100 by nothing.
Below 5 it is a sixth and more, for the thousand steps in which its second moment fills up.

The moving average needs no ages. It is the average of the dense-equivalent model, in which an
inactive weight is 0: a regrown weight's average begins anew at 0, as its value does, and what the
weight was before it was pruned is forgotten. It is float32 whatever the weights are: over a
thousand steps a step moves it by a thousandth, which bfloat16 would round away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from raysparse.spec import Moments, Precision

FROM_THE_START = 255
AVERAGE_PORTION = 1 << 22  # weights whose float32 copy is made at a time where they are stored in bfloat16

STORAGE_DTYPE: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "bf16_master": torch.float32,
}
COMPUTE_DTYPE: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "bf16_master": torch.bfloat16,
}
MOMENT_DTYPE: dict[Moments, torch.dtype] = {"fp32": torch.float32, "bf16_stochastic": torch.bfloat16}


class Arena:
    """Flat storage for `count` weights: values, grad, exp_avg, exp_avg_sq, uint8 ages of `ages`
    blocks (0: none), and, if `averages`, their moving average in float32.
    """

    def __init__(
        self, count: int, *, ages: int = 0, dtype: torch.dtype, moments: torch.dtype, device: torch.device | str,
        averages: bool = False,
    ):  # fmt: skip
        self.values = torch.zeros(count, dtype=dtype, device=device)
        self.grad = torch.zeros(count, dtype=dtype, device=device)
        self.exp_avg = torch.zeros(count, dtype=moments, device=device)
        self.exp_avg_sq = torch.zeros(count, dtype=moments, device=device)
        self.revision = 0  # raised by whoever changes the values
        self.age = torch.full((ages,), FROM_THE_START, dtype=torch.uint8, device=device) if ages else None
        self.average = torch.zeros(count, dtype=torch.float32, device=device) if averages else None

    def states(self) -> dict[str, Tensor]:
        """What lives from step to step (gradients do not), by name."""
        kept = {
            "values": self.values, "exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "age": self.age,
            "average": self.average,
        }  # fmt: skip
        return {name: state for name, state in kept.items() if state is not None}

    def load(self, states: dict[str, Tensor]) -> None:
        for name, tensor in self.states().items():
            if name in states:  # a checkpoint of weights alone lacks what only further training needs
                tensor.copy_(states[name])
        self.revision += 1

    def follow(self, share: float) -> None:
        """Move the average by `share` of its distance to the values."""
        assert self.average is not None
        for start in range(0, self.values.numel(), AVERAGE_PORTION):
            part = slice(start, start + AVERAGE_PORTION)
            self.average[part].lerp_(self.values[part].float(), share)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the `with` the values are the averages. The values wait in the gradients, which
        are 0 between steps, so that it takes no memory; nobody may compute gradients meanwhile.
        """
        assert self.average is not None
        self.grad.copy_(self.values)
        self.values.copy_(self.average)
        self.revision += 1
        try:
            yield
        finally:
            self.values.copy_(self.grad)
            self.grad.zero_()
            self.revision += 1

    def bytes_by_kind(self) -> dict[str, int]:
        return {
            "weights": self.values.nbytes,
            "gradients": self.grad.nbytes,
            "moments": self.exp_avg.nbytes + self.exp_avg_sq.nbytes,
            "average": 0 if self.average is None else self.average.nbytes,
            "ages": 0 if self.age is None else self.age.nbytes,
        }


def adopt(parameters: Iterable[nn.Parameter], *, moments: torch.dtype, averages: bool = False) -> Arena:
    """Move dense parameters into one arena: each becomes a view of it, and so does its .grad."""
    parameters = list(parameters)
    arena = Arena(
        sum(p.numel() for p in parameters), dtype=parameters[0].dtype, moments=moments, device=parameters[0].device,
        averages=averages,
    )  # fmt: skip
    start = 0
    for p in parameters:
        part = slice(start, start + p.numel())
        arena.values[part] = p.data.view(-1)
        p.data = arena.values[part].view_as(p)
        p.grad = arena.grad[part].view_as(p)
        start += p.numel()
    return arena
