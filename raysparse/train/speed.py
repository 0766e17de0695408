"""How fast a device trains, measured by training on it for a few seconds: what a plan for a GPU is
priced with.

Random tokens stand in for data, since the time of a step does not depend on what they are. Two
trials tell a step's fixed cost from its FLOPs: of a plan, those with the least and the most FLOPs a
step. Left out: evaluations, start-up, and other workers of the same card.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from raysparse import counts
from raysparse.placement import Placement
from raysparse.spec import TrialSpec
from raysparse.train import device
from raysparse.train.state import TrainState
from raysparse.train.step import train_step

WARM_UP = 2  # steps: the first compiles kernels


class RandomBatches:
    """Stands in for `data.order.Batches`."""

    def __init__(self, spec: TrialSpec):
        shape = spec.optimizer.batch_sequences, spec.model.context + 1
        self.rows = np.random.default_rng(0).integers(0, spec.model.vocab_size, shape)

    def train(self, step: int, start: int, stop: int) -> np.ndarray:
        return self.rows[start:stop]


def measured(specs: Sequence[TrialSpec], placement: Placement, *, seconds: float = 2.0) -> tuple[float, float, str]:
    """(FLOPs executed a second, seconds of a step besides, what was measured) of one worker; each
    of at most two trials takes `seconds` and its warm-up.
    """
    flops = {spec: counts.flops(spec, device=placement.device)[1] / spec.steps for spec in specs}
    ordered = sorted(specs, key=flops.__getitem__)
    chosen = [ordered[-1]] if flops[ordered[0]] == flops[ordered[-1]] else [ordered[0], ordered[-1]]
    points = [(flops[spec], seconds_of_step(spec, placement, seconds)) for spec in chosen]
    return *line(points), " and ".join(dict.fromkeys(spec.model.name for spec in chosen))


def seconds_of_step(spec: TrialSpec, placement: Placement, seconds: float) -> float:
    """Median of the steps that `seconds` hold after the warm-up, at least one."""
    batches: Any = RandomBatches(spec)
    state = TrainState(spec, device.fitted(spec, placement.replace(workers=1)))
    for _ in range(WARM_UP):
        train_step(state, batches)
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        found.append(train_step(state, batches).seconds)
    return statistics.median(found)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(FLOPs a second, seconds besides) of one or two (FLOPs, seconds), neither negative."""
    (least, short), (most, long) = points[0], points[-1]
    rate = (most - least) / (long - short) if long > short else 0.0
    besides = short - least / rate if rate > 0.0 else 0.0
    return (rate, besides) if besides > 0.0 else (most / long, 0.0)
