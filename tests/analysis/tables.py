"""Simulated sweep tables in the shape of a `results.parquet`, for tests that need no training.

The planted law and its numbers are those of a plausible byte-level laptop sweep; nothing is
asserted here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from analysis.data.points import Points
from analysis.laws import named

LAW = named("sparse_small_overfit")
TRUTH = LAW.vector(
    {
        "ln_A": np.log(24.0),
        "ln_B": np.log(160.0),
        "ln_E": np.log(0.9),
        "alpha": 0.28,
        "beta": 0.42,
        "k": -0.25,
        "ln_R_D": np.log(5.0),
        "ln_K": -5.5,
        "q": 1.2,
        "r": 0.5,
    }
)
SIZES = ((60_000, 20_000), (250_000, 40_000), (900_000, 60_000))  # sparse matrices, head and norms


def laptop(
    densities: Sequence[float] = (1.0, 0.5, 0.25),
    uniques: Sequence[int] = (100_000, 400_000),
    epochs: Sequence[int] = (1, 2, 4, 8),
    seeds: int = 1,
    noise: float = 0.006,
    seed: int = 0,
) -> pa.Table:
    """One row per size x density x U x epochs x seed; loss from the planted law, times lognormal
    noise.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for size, (sparse, rest) in enumerate(SIZES):
        for density in densities:
            for unique in uniques:
                for passes in epochs:
                    for replicate in range(seeds):
                        active, tokens = sparse * density + rest, unique * passes
                        expected = LAW.predict(TRUTH, Points.at(active, density, unique, tokens))[0]
                        loss = float(expected * np.exp(noise * generator.standard_normal()))
                        rows.append(
                            {
                                "trial_id": f"t{len(rows):03d}",
                                "model": f"laptop-{size}",
                                "density": density,
                                "method": "dense" if density == 1 else "smet",
                                "unique_tokens": unique,
                                "tokens": tokens,
                                "epochs": float(passes),
                                "seed": replicate,
                                "params_sparse_total": sparse,
                                "params_active_non_embedding": int(active),
                                "flops_active": 6.0 * active * tokens,
                                "flops_executed": 6.0 * (sparse + rest) * tokens,
                                "seconds": 1.0 + 6e-10 * (sparse + rest) * tokens,
                                "validation_loss": loss,
                                "status": "completed",
                            }
                        )
    return pa.Table.from_pylist(rows)
