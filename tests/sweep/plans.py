"""Small plans over a corpus of a few kilobytes, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

from raysparse.placement import Placement
from raysparse.spec import DataSpec, OptimizerSpec, SparsitySpec
from raysparse.sweep.budget import Budget
from raysparse.sweep.plan import Plan
from raysparse.sweep.planners.grid import grid
from raysparse.sweep.planners.recipe import Recipe

VALIDATION = 1_000


def write_corpus(folder: Path) -> str:
    """Forty documents of pseudo-code, the same in every call."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(40):
        lines = [
            f"def function_{n}_{k}(x, y):\n    return x * {n * k % 17} + y ** {k % 5}  # {n}.{k}\n" for k in range(20)
        ]
        (folder / f"module_{n:02}.py").write_text("\n".join(lines))
    return str(folder)


def small_plan(
    corpus: str,
    *,
    sizes: tuple[str, ...] = ("laptop-xs",),
    densities: tuple[float, ...] = (1.0, 0.25),
    epochs: tuple[float, ...] = (1, 2),
    unique_tokens: tuple[int, ...] = (4_097,),
    workers: int = 1,
    budget: Budget | None = None,
) -> Plan:
    """By default four trials of 16 and 32 steps, about a second each."""
    recipe = Recipe(
        vocab_size=257,
        context=64,
        data=DataSpec(corpus=corpus, validation_tokens=VALIDATION),
        sparsity=SparsitySpec(update_every=5),
        optimizer=OptimizerSpec(batch_sequences=4),
        evaluations=4,
    )
    specs = grid(
        recipe,
        sizes=sizes,
        densities=densities,
        unique_tokens=unique_tokens,
        epochs=epochs,
    )
    return Plan(specs=specs, placement=Placement(workers=workers, checkpoint_seconds=0.2), budget=budget or Budget())
