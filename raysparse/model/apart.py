"""Functions that `torch.compile` leaves alone, marked without loading the compiler.

`torch.compiler.disable` loads it as soon as it is named: four seconds of CPU in every process that
trains, and few compile anything. So a mark is only a thin function around another one, and the
compiler hears of all of them just before it is used (`tell_the_compiler`). Without that call a
marked function is compiled like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

_marked: list[Any] = []


def apart(function: F) -> F:
    """The function, to be called as it is in the middle of what is compiled."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return marked.inner(*arguments, **named)

    marked: Any = call
    marked.inner = function
    _marked.append(marked)
    found: F = marked
    return found


def tell_the_compiler() -> None:
    """Load it, and let it know every marked function; a second call changes nothing."""
    while _marked:
        one = _marked.pop()
        one.inner = torch.compiler.disable(one.inner)  # type: ignore[no-untyped-call]
