"""Every combination of the axes: the planner that asks once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from raysparse.record import require
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.recipe import Recipe


def grid(
    recipe: Recipe,
    *,
    sizes: Sequence[str],
    densities: Sequence[float],
    unique_tokens: Sequence[int],
    epochs: Sequence[float],
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[TrialSpec, ...]:
    """Every combination of the axes; `settings` are further ones, dotted fields with their values.

    Raises ValueError for an empty axis and for whatever a spec refuses.
    """
    named = {"sizes": sizes, "densities": densities, "unique_tokens": unique_tokens, "epochs": epochs, "seeds": seeds}
    fields = settings or {}
    for axis, values in {**named, **fields}.items():
        require(len(values) >= 1, axis, values, "at least one value")
    return tuple(
        recipe.spec(size, density, unique, passes, seed=seed, settings=dict(zip(fields, given, strict=True)))
        for size, density, unique, passes, seed, *given in itertools.product(*named.values(), *fields.values())
    )
