"""Coordinates and settings of runs as columns of about [-1, 1], on which a smooth model works.

Everything is in logarithms, because sizes, tokens, decay and rates act by their ratios. A setting
may be 0 (no decay, no dropout): it is then moved by a third of its smallest positive value, so that
0 lies one step below that value and not infinitely far. A setting with a negative value, and one
that is only 0 or 1, keeps its own scale. The answer may lie a little beyond the settings that were
tried, never below 0. Left out: the model itself (`surrogate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.data.columns import nearest
from analysis.data.points import Array, Points

STEP = 3.0  # a zero counts as one step of this factor below the smallest positive value
WIDER = 0.15  # of the half-range is how far beyond the tried settings a search may go
LEAST = 0.35  # half-range, in logarithms, that a column is at least given
COORDINATES = ("log_active", "log_density", "log_unique", "log_epochs")


@dataclass(frozen=True)
class Axis:
    """One setting's scale: ln(value + shift), or the value itself where `plain`.

    middle and half: what becomes 0 and 1. low and high: range of the search, in units of the
    column. switch: only 0 and 1 exist.
    """

    name: str
    plain: bool
    shift: float
    middle: float
    half: float
    low: float
    high: float
    switch: bool = False

    @classmethod
    def of(cls, name: str, values: Array) -> Axis:
        """The axis of a setting that took these values.

        Raises ValueError for a value that is not finite, naming it.
        """
        bad = ~np.isfinite(values)
        if bad.any():
            raise ValueError(f"setting {name!r} has the value {values[bad][0]}; expected finite numbers")
        switch = set(np.unique(values)) <= {0.0, 1.0}
        plain = switch or bool((values < 0).any()) or not (values > 0).any()
        shift = 0.0 if plain or (values > 0).all() else float(values[values > 0].min()) / STEP
        seen = values if plain else np.log(values + shift)
        middle, half = 0.5 * float(seen.min() + seen.max()), 0.5 * float(np.ptp(seen))
        half = max(half, LEAST) if not plain else half or 1.0
        reach = np.array([seen.min() - middle, seen.max() - middle]) / half
        wider = 0.0 if switch else WIDER
        low = float(reach[0]) if shift else float(reach[0]) - wider
        return cls(name, plain, shift, middle, half, low, float(reach[1]) + wider, switch)

    def inward(self, values: ArrayLike) -> Array:
        """Values as columns. Raises ValueError for one that the axis cannot hold."""
        array = np.asarray(values, dtype=float)
        bad = ~np.isfinite(array) if self.plain else ~(np.isfinite(array) & (array + self.shift > 0))
        if bad.any():
            limit = "finite" if self.plain else "0 or more" if self.shift else "positive"
            raise ValueError(
                f"setting {self.name!r} is {np.atleast_1d(array)[np.atleast_1d(bad)][0]}; it must be {limit}"
            )
        return ((array if self.plain else np.log(array + self.shift)) - self.middle) / self.half

    def outward(self, column: Array) -> Array:
        """The inverse of `inward`; a switch takes the nearer side."""
        seen = self.middle + self.half * column
        if self.switch:
            return np.round(seen)
        return seen if self.plain else np.maximum(np.exp(seen) - self.shift, 0.0)


@dataclass(frozen=True)
class Frame:
    """The columns of a table: the coordinates that vary in it, then its settings.

    middle and half: (4,) of `COORDINATES`; kept: the coordinates that are columns.
    """

    middle: Array
    half: Array
    kept: tuple[int, ...]
    axes: tuple[Axis, ...]

    @classmethod
    def of(cls, points: Points, settings: Mapping[str, Array]) -> Frame:
        seen = _coordinates(points)
        low, high = seen.min(axis=0), seen.max(axis=0)
        kept = tuple(int(i) for i in np.flatnonzero(high - low > 1e-3))
        axes = tuple(Axis.of(name, np.asarray(values, dtype=float)) for name, values in settings.items())
        return cls(0.5 * (low + high), np.maximum(0.5 * (high - low), LEAST), kept, axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    def coordinates(self, points: Points) -> Array:
        """(n, k) columns of the coordinates."""
        return ((_coordinates(points) - self.middle) / self.half)[:, list(self.kept)]

    def points(self, columns: Array) -> Points:
        """The inverse of `coordinates`, for (n, k) columns; a coordinate that did not vary keeps
        its value.
        """
        seen = np.tile(self.middle, (len(columns), 1))
        seen[:, list(self.kept)] += self.half[list(self.kept)] * columns
        active, density, unique, epochs = np.exp(seen).T
        return Points(active, np.minimum(density, 1.0), unique, unique * epochs)

    def settings(self, values: Mapping[str, ArrayLike], rows: int) -> Array:
        """(n, m) columns of the settings; scalars are broadcast.

        Raises ValueError for a setting that is missing or unknown, the nearest one named.
        """
        for name in values:
            if name not in self.names:
                known = ", ".join(self.names) or "none"
                raise ValueError(
                    f"unknown setting {name!r}{nearest(name, self.names)}; the table's settings are {known}"
                )
        columns = np.empty((rows, len(self.axes)))
        for place, axis in enumerate(self.axes):
            if axis.name not in values:
                raise ValueError(f"setting {axis.name!r} has no value; give one for each of {', '.join(self.names)}")
            columns[:, place] = axis.inward(values[axis.name])
        return columns

    def named(self, columns: Array) -> dict[str, Array]:
        """(n, m) columns as values by name."""
        return {axis.name: axis.outward(columns[:, place]) for place, axis in enumerate(self.axes)}

    def limits(self) -> tuple[Array, Array]:
        """(m,) lowest and highest column of a search."""
        return np.array([axis.low for axis in self.axes]), np.array([axis.high for axis in self.axes])


def _coordinates(points: Points) -> Array:
    epochs = points.log_tokens - points.log_unique
    return np.stack([points.log_active, points.log_density, points.log_unique, epochs], axis=-1)
