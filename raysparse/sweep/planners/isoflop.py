"""IsoFLOP slices: for each budget, every size and density, trained for as long as the budget lasts.

The epochs follow from the unique tokens. FLOPs are exact (attention included), steps are whole, so
a trial meets its budget within half a step; one that misses it by more than 1 %, or would see its
data fewer than `LEAST_EPOCHS` or more than `MOST_EPOCHS` times, is dropped here and named.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from raysparse import counts
from raysparse.record import require
from raysparse.spec import TrialSpec
from raysparse.sweep.planners.recipe import Recipe

TOLERANCE = 0.01
LEAST_EPOCHS, MOST_EPOCHS = 0.25, 128.0

# FLOPs of a trial: three slices that two CPU cores train in about ten minutes with the laptop
# sizes, and those of the Chinchilla study (arXiv 2203.15556, figure 3) up to what one node does.
PRESETS: dict[str, tuple[float, ...]] = {
    "laptop": (5e10, 1.5e11, 4.5e11),
    "chinchilla": (6e18, 1e19, 3e19, 6e19, 1e20),
}


def isoflop(
    recipe: Recipe,
    *,
    budgets: Sequence[float],
    sizes: Sequence[str],
    densities: Sequence[float],
    unique_tokens: Sequence[int],
    seeds: Sequence[int] = (0,),
    unit: Literal["flops_active", "flops_executed"] = "flops_active",
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> tuple[tuple[TrialSpec, ...], tuple[str, ...]]:
    """The trials, and one line for every point that was dropped, with the reason.

    budgets: FLOPs of one trial, in `unit`, executed ones on `device`. settings: fields that all
    share. Raises ValueError for an empty axis and when no point meets its budget.
    """
    axes: dict[str, Sequence[Any]] = {
        "budgets": budgets,
        "sizes": sizes,
        "densities": densities,
        "unique_tokens": unique_tokens,
        "seeds": seeds,
    }
    for axis, values in axes.items():
        require(len(values) >= 1, axis, values, "at least one value")
    found, dropped = [], []
    for budget, size, density, unique, seed in itertools.product(*axes.values()):
        one = recipe.spec(size, density, unique, _one_step(recipe, unique), seed=seed, settings=settings)
        epochs = counts.epochs_for(one, budget, unit, device=device)
        missed = _missed(one, epochs, budget, unit, device)
        if missed:
            dropped.append(f"{size} d={density:g} U={unique} at {budget:.3g}: {missed}")
        else:
            found.append(recipe.spec(size, density, unique, epochs, seed=seed, settings=settings))
    if not found:
        raise ValueError(f"no point meets its budget; the first: {dropped[0]}")
    return tuple(found), tuple(dropped)


def _one_step(recipe: Recipe, unique: int) -> float:
    """Epochs of a trial of one step: enough for counting what a step costs."""
    return recipe.optimizer.batch_sequences / max(1, (unique - 1) // recipe.context)


def _missed(spec: TrialSpec, epochs: float, budget: float, unit: str, device: str) -> str:
    if not LEAST_EPOCHS <= epochs <= MOST_EPOCHS:
        return f"{epochs:.3g} epochs, expected {LEAST_EPOCHS:g} to {MOST_EPOCHS:g}"
    active, executed = counts.flops(spec.replace(data=spec.data.replace(epochs=epochs)), device=device)
    off = (active if unit == "flops_active" else executed) / budget - 1.0
    return f"whole steps miss it by {off:+.1%}" if abs(off) > TOLERANCE else ""
