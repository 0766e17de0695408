"""Every combination of the axes: the planner that asks once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from raysparse import ladder
from raysparse.record import require
from raysparse.spec import DataSpec, Method, OptimizerSpec, Precision, SparsitySpec, TrialSpec


def grid(
    *,
    sizes: Sequence[str],
    densities: Sequence[float],
    unique_tokens: Sequence[int],
    epochs: Sequence[float],
    vocab_size: int,
    seeds: Sequence[int] = (0,),
    method: Method = "smet",
    context: int = 256,
    data: DataSpec = DataSpec(),
    sparsity: SparsitySpec = SparsitySpec(),
    optimizer: OptimizerSpec = OptimizerSpec(),
    precision: Precision = "fp32",
    evaluations: int = 8,
) -> tuple[TrialSpec, ...]:
    """Every combination, each with its size's own learning rate; density 1 is trained dense, and
    then has no layout.

    `data`, `sparsity` and `optimizer` give what the grid does not vary. Raises ValueError for
    whatever a spec refuses.
    """
    axes: dict[str, Sequence[Any]] = {
        "sizes": sizes, "densities": densities, "unique_tokens": unique_tokens, "epochs": epochs, "seeds": seeds,
    }  # fmt: skip
    for axis, values in axes.items():
        require(len(values) >= 1, axis, values, "at least one value")
    specs = []
    dense = sparsity.replace(method="dense", density=1.0, layout="element", block=1, balanced=False)
    for size, density, unique, passes, seed in itertools.product(*axes.values()):
        name = f"{size} d={density:g} U={unique} x{passes:g}" + (f" seed={seed}" if len(seeds) > 1 else "")
        specs.append(
            TrialSpec(
                model=ladder.model(size, vocab_size=vocab_size, context=context),
                sparsity=dense if density == 1.0 else sparsity.replace(method=method, density=density),
                data=data.replace(unique_tokens=int(unique), epochs=float(passes)),
                optimizer=optimizer.replace(lr=ladder.dense_lr(size, optimizer.lr)),
                precision=precision,
                seed=seed,
                evaluations=evaluations,
                name=name,
            )
        )
    return tuple(specs)
