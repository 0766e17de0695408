"""Plans of trials of a few steps, which checkpoint after every one."""

from __future__ import annotations

from raysparse.placement import Placement
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Space

AXES = ["size=laptop-xs", "density=1,0.5,0.25", "epochs=1..3", "weight_decay=0.1..10"]


def recipe(corpus: str, batch: int = 4) -> Recipe:
    return Recipe(
        vocab_size=257,
        context=32,
        data=DataSpec(corpus=corpus, validation_tokens=200),
        sparsity=SparsitySpec(update_every=2),
        optimizer=OptimizerSpec(batch_sequences=batch),
        evaluations=2,
    )


def tiny_plan(corpus: str) -> Plan:
    """Two trials of four and eight steps, then a search that adds two."""
    specs = grid(recipe(corpus), sizes=("laptop-xs",), densities=(0.25,), unique_tokens=(513,), epochs=(1, 2))
    asks = Search(
        recipe=recipe(corpus), space=Space.parse(AXES, 257), unique_tokens=513, sampler="random", trials=4
    )  # fmt: skip
    return Plan(specs=specs, placement=Placement(checkpoint_seconds=0.0), planner=asks)


def many(corpus: str, trials: int, *, epochs: float = 1, batch: int = 2, checkpoint_seconds: float = 0.2) -> Plan:
    """So many trials, alike but for density and seed; 8 steps an epoch at 2 sequences a batch.

    The micro-batch is 1, which no retry can halve: whatever kills a trial, its sums stay the same.
    """
    [dense, half, sparse] = grid(
        recipe(corpus, batch), sizes=("laptop-xs",), densities=(1.0, 0.5, 0.25), unique_tokens=(513,), epochs=(epochs,)
    )
    specs: list[TrialSpec] = [(dense, half, sparse)[n % 3].replace(seed=n // 3) for n in range(trials)]
    return Plan(specs=tuple(specs), placement=Placement(micro_batch=1, checkpoint_seconds=checkpoint_seconds))
