"""Trials that a search may choose from, evenly spread over its space, and how a trial that was run
already becomes a new one.

Making a trial costs a millisecond or two, so the spread of a space is made once in a process and
kept; it is a function of the space alone. A point that a spec refuses (a decay that takes all of a
weight in one step, a batch larger than the data) is no part of the space. Left out: choosing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from analysis.answer.surrogate import Surrogate
from analysis.data.axes import STEP
from analysis.data.points import Array, Points
from analysis.fit.gaussian import spread
from raysparse import counts
from raysparse.results import schema, spec_columns
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.base import Known, Purse
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.space import POINT, Space, Values

COUNT = 384  # trials that stand for a space
COORDINATES = ("active", "density", "unique", "tokens")
SEEDS = 8  # replicates of one trial, at most


@dataclass(frozen=True)
class Maker:
    """What turns values into a trial of a search."""

    recipe: Recipe
    space: Space
    unique_tokens: int

    def trial(self, values: Values) -> TrialSpec | None:
        """The trial of a point; None where a spec refuses it, or where the nearest shape of a size
        lies outside the space.
        """
        try:
            spec = self.space.trial(self.recipe, self.unique_tokens, values)
        except ValueError:
            return None
        return None if self.place(spec) is None else spec

    def place(self, spec: TrialSpec) -> Array | None:
        """(k,) where any trial lies in the unit cube of the free axes; None outside."""
        units = self.space.units(self.space.values_of(spec))
        return None if units is None else np.array(units)

    def places(self, specs: Sequence[TrialSpec]) -> Array:
        """(n, k) places of trials that all lie inside."""
        return np.array([self.space.units(self.space.values_of(spec)) for spec in specs], dtype=float)

    def trials(self, places: Iterable[Sequence[float]]) -> list[TrialSpec]:
        """The trials of places in the unit cube, each once."""
        made = (self.trial(self.space.values([float(u) for u in place])) for place in places)
        return list({spec.trial_id: spec for spec in made if spec is not None}.values())


@dataclass(frozen=True, eq=False)
class Trials:
    """n trials with their places in the space, (n, k), and their points."""

    specs: tuple[TrialSpec, ...]
    places: Array
    points: Points

    @classmethod
    def of(cls, maker: Maker, specs: Sequence[TrialSpec]) -> Trials:
        return cls(tuple(specs), maker.places(specs), points_of(specs))

    def __len__(self) -> int:
        return len(self.specs)

    def __add__(self, other: Trials) -> Trials:
        if not len(other):
            return self
        one, two = self.points, other.points
        points = Points(*(np.concatenate([getattr(one, n), getattr(two, n)]) for n in COORDINATES))
        return Trials(self.specs + other.specs, np.vstack([self.places, other.places]), points)

    def prices(self, purse: Purse) -> Array:
        """(n,) what each costs."""
        return np.array([purse.price(spec) for spec in self.specs])


@lru_cache(maxsize=8)
def spread_trials(maker: Maker, seed: int) -> Trials:
    """About `COUNT` trials, even over the space, and its corners in size, density and epochs.

    Raises ValueError when a spec refuses every one, with what it says of the first.
    """
    free = maker.space.free
    cube = spread(len(free), COUNT, seed)
    ends = [(0.0, 1.0) if axis.name in POINT else (0.5,) for axis in free]
    found = maker.trials([*itertools.product(*ends), *cube])
    if not found:
        maker.space.trial(maker.recipe, maker.unique_tokens, maker.space.values([0.5] * len(free)))
        raise ValueError("a spec refuses every trial of the space; narrow its ranges")
    return Trials.of(maker, found)


def fresh(spec: TrialSpec, taken: AbstractSet[str], first: int = 0) -> TrialSpec | None:
    """The trial itself, or where it is taken its first replicate that is not, of those whose seeds
    begin at `first`; None when all are.
    """
    seeds = (spec.seed, *range(first, first + SEEDS))
    return next((one for seed in seeds if (one := _seeded(spec, seed)).trial_id not in taken), None)


def _seeded(spec: TrialSpec, seed: int) -> TrialSpec:
    if seed == spec.seed:
        return spec
    return spec.replace(seed=seed, name=f"{spec.name.partition(' seed=')[0]} seed={seed}")


def points_of(specs: Sequence[TrialSpec]) -> Points:
    """Where trials stand for `analysis`: active weights, density, unique and trained tokens."""
    active = [counts.parameters(spec.model, spec.sparsity).active_non_embedding for spec in specs]
    return Points.at(
        active,
        [spec.sparsity.density for spec in specs],
        [spec.data.unique_tokens for spec in specs],
        [spec.tokens for spec in specs],
    )


def settings_of(specs: Sequence[TrialSpec], names: Iterable[str]) -> dict[str, Array]:
    """(n,) values of settings, which `analysis` calls by their column."""
    fields = {column: path for column, (path, _) in spec_columns().items()}
    return {name: np.array([float(spec.at(fields[name])) for spec in specs]) for name in names}


def table_of(known: Iterable[Known]) -> Any:
    """The rows of completed trials as the table that `analysis` reads, by trial id."""
    import pyarrow as pa

    rows = sorted((t.row for t in known if t.loss is not None and t.row is not None), key=lambda row: row["trial_id"])
    return pa.Table.from_pylist(rows, schema=schema())


def columns_of(model: Surrogate, points: Points, specs: Sequence[TrialSpec]) -> Array:
    """(n, p) the model's columns of any trials. Where no row has a setting at 0 the model has no
    place for it; it then stands one step below the smallest that was tried, as the model's own
    zeros do.
    """
    given = settings_of(specs, model.settings)
    for axis in model.frame.axes:
        if not axis.plain and not axis.shift:
            given[axis.name] = np.maximum(given[axis.name], model.runs.settings[axis.name].min() / STEP)
    return model.columns(points, given)
