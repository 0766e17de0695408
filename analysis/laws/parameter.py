"""What a law's parameter is: a name, where it may lie, where to look for it first, and what it
means.

Positive quantities are stored as natural logarithms (their names start with `ln_`), so that a fit
is free to move and an interval is sensible; `Parameter.natural` undoes it for people. No numbers of
any fit live here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.data.points import Array

Theta = Mapping[str, Array]  # parameter name -> (starts, 1), to broadcast against (n,) points


@dataclass(frozen=True)
class Parameter:
    """low, high: bounds of the fit. start: the range that multi-start searches. unit, meaning: for
    people.
    """

    name: str
    low: float
    high: float
    start: tuple[float, float]
    unit: str
    meaning: str

    @property
    def natural_name(self) -> str:
        return self.name.removeprefix("ln_")

    def natural(self, value: float) -> float:
        """The value in its natural unit: exp of a stored logarithm, else the value itself."""
        return float(np.exp(value)) if self.name.startswith("ln_") else float(value)
