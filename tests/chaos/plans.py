"""Plans of trials of a few steps, of a model that is as small as they come."""

from __future__ import annotations

from raysparse.placement import Placement
from raysparse.spec import DataSpec, ModelSpec, OptimizerSpec, SparsitySpec, TrialSpec
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.recipe import Recipe
from raysparse.sweep.planners.search import Search
from raysparse.sweep.planners.space import Space

AXES = ["size=laptop-xs", "density=1,0.5,0.25", "epochs=1..2", "weight_decay=0.1..10"]
CONTEXT, UNIQUE, VALIDATION = 32, 513, 200


def small(corpus: str, *, density: float, epochs: float, batch: int, seed: int = 0) -> TrialSpec:
    """A trial of 16 / batch steps an epoch."""
    method = "dense" if density == 1.0 else "smet"
    return TrialSpec(
        model=ModelSpec(hidden=16, intermediate=24, layers=2, heads=2, vocab_size=257, context=CONTEXT),
        sparsity=SparsitySpec(method=method, density=density, update_every=2),
        data=DataSpec(corpus=corpus, unique_tokens=UNIQUE, epochs=epochs, validation_tokens=VALIDATION),
        optimizer=OptimizerSpec(batch_sequences=batch),
        evaluations=2,
        seed=seed,
    )


def tiny_plan(corpus: str) -> Plan:
    """Two trials of four and eight steps, then a search that adds one; checkpoints after every
    step.
    """
    recipe = Recipe(
        vocab_size=257, context=CONTEXT, data=DataSpec(corpus=corpus, validation_tokens=VALIDATION),
        sparsity=SparsitySpec(update_every=2), optimizer=OptimizerSpec(batch_sequences=8), evaluations=2,
    )  # fmt: skip
    return Plan(
        specs=(small(corpus, density=0.25, epochs=1, batch=4), small(corpus, density=1.0, epochs=2, batch=4)),
        placement=Placement(checkpoint_seconds=0.0),
        planner=Search(
            recipe=recipe, space=Space.parse(AXES, 257), unique_tokens=UNIQUE, sampler="random", trials=3
        ),
    )  # fmt: skip


def many(corpus: str, trials: int, *, epochs: float = 1, batch: int = 2, checkpoint_seconds: float = 0.2) -> Plan:
    """So many trials, alike but for density and seed; 8 steps an epoch at 2 sequences a batch.

    The micro-batch is 1, which no retry can halve: whatever kills a trial, its sums stay the same.
    """
    densities = (1.0, 0.5, 0.25)
    specs = tuple(
        small(corpus, density=densities[n % 3], epochs=epochs, batch=batch, seed=n // 3) for n in range(trials)
    )
    return Plan(specs=specs, placement=Placement(micro_batch=1, checkpoint_seconds=checkpoint_seconds))
