"""What a case of the conformance suite is, and how a backend's answer to it is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from raysparse.kernels import ops

FP32, BF16 = torch.float32, torch.bfloat16
DTYPES = (FP32, BF16)


class Answer(NamedTuple):
    """What must come of a call."""

    values: Tensor | tuple[Tensor, ...]
    rounding: float = 0.0  # relative and absolute; 0: equal to the bit
    exceptions: float = 0.0  # share of the values that may be the other neighbour of their rounding


class Case(NamedTuple):
    """A call of an operation and all that must come of it."""

    operation: Callable[..., Any]  # of `ops`
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    answers: dict[int | None, Answer]  # by the argument that holds it afterwards; None: what is returned


def check(case: Case, backend: ops.Backend) -> None:
    """Raises AssertionError if the backend's answer is another."""
    arguments = tuple(copied(a) if isinstance(a, Tensor) else a for a in case.arguments)
    with ops.using(backend):
        made = case.operation(*arguments, **case.named)
    for where, (values, rounding, exceptions) in case.answers.items():
        found, place = (made, "what is returned") if where is None else (arguments[where], f"argument {where}")
        said = f"{place}: {{}}".format
        torch.testing.assert_close(found, values, rtol=rounding, atol=rounding, equal_nan=True, msg=said)
        if exceptions:
            assert isinstance(values, Tensor)
            is_other = (found != values) & ~values.isnan()
            assert is_other.float().mean() < exceptions, said("too many are the neighbour")


def copied(x: Tensor) -> Tensor:
    """With as much room between its rows as in the original, which may be a part of wider ones."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)
