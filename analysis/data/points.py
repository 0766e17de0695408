"""Where a law is evaluated: active parameters, density, unique tokens and trained tokens of n runs.

Everything downstream (laws, cost models, the optimum search) works on logarithms, so a `Points`
checks its four arrays once and keeps the logarithms beside them. It knows nothing of losses,
identifiers or files; `table.Runs` adds those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]  # float64 unless a docstring says otherwise


@dataclass(frozen=True)
class Points:
    """Coordinates of n runs, each array of shape (n,): scalars are broadcast together.

    The optimum search uses shape (b, n): its own points for each of b parameter vectors.

    active: N, active parameters (the count that the law uses; see `table.COUNTS`). density: d in
    (0, 1], the share of each sparse matrix that is active. unique: U, unique tokens; tokens: D,
    trained tokens (D = U * epochs; D < U means U was not used up).

    Raises ValueError for a value that is not finite and positive, or a density above 1, naming the
    position.
    """

    active: Array
    density: Array
    unique: Array
    tokens: Array
    log_active: Array = field(init=False, repr=False)
    log_density: Array = field(init=False, repr=False)
    log_unique: Array = field(init=False, repr=False)
    log_tokens: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = ("active", "density", "unique", "tokens")
        arrays = np.broadcast_arrays(*(np.asarray(getattr(self, name), dtype=float) for name in names))
        for name, array in zip(names, arrays, strict=True):
            bad = ~(np.isfinite(array) & (array > 0))
            if name == "density":
                bad |= array > 1
            if bad.any():
                where = int(np.argmax(bad.ravel()))
                limit = "in (0, 1]" if name == "density" else "finite and positive"
                raise ValueError(f"{name}[{where}] is {float(array.ravel()[where])!r}; it must be {limit}")
            object.__setattr__(self, name, np.atleast_1d(array.astype(float)))
            object.__setattr__(self, f"log_{name}", np.atleast_1d(np.log(array)))

    @classmethod
    def at(cls, active: ArrayLike, density: ArrayLike, unique: ArrayLike, tokens: ArrayLike) -> Points:
        """Points from anything array-like, scalars included."""
        return cls(*(np.asarray(values, dtype=float) for values in (active, density, unique, tokens)))

    def __len__(self) -> int:
        return len(self.active)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.active.shape

    @property
    def epochs(self) -> Array:
        """Passes over the unique tokens, D / U; below 1 where U was not used up."""
        return self.tokens / self.unique

    @cached_property
    def sparsity(self) -> Array:
        """1 - d."""
        return 1.0 - self.density

    @cached_property
    def log_used(self) -> Array:
        """ln of the unique tokens that were trained on: of D where it is below U."""
        return np.minimum(self.log_unique, self.log_tokens)

    @cached_property
    def repetition(self) -> Array:
        """D over the unique tokens that were trained on, less one."""
        return np.asarray(np.expm1(self.log_tokens - self.log_used))

    @cached_property
    def again(self) -> Array:
        """Whether there is more than one epoch."""
        return np.asarray(self.epochs - 1.0 > 0)

    @cached_property
    def log_again(self) -> Array:
        """ln of the epochs beyond the first; 0 where there is none."""
        return np.log(np.where(self.again, self.epochs - 1.0, 1.0))

    def take(self, rows: ArrayLike) -> Points:
        """The points at `rows` (indices or a boolean mask)."""
        index = np.asarray(rows)
        return Points(self.active[index], self.density[index], self.unique[index], self.tokens[index])
