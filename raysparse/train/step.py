"""One training step, in one screen. Everything that happens only now and then is a hook
(`hooks`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.data.order import Batches
from raysparse.model.dropout import Dropout
from raysparse.train import ranks
from raysparse.train.state import TrainState


class Diverged(Exception):  # noqa: N818  (a state of a run, reported as a status, not a fault of the program)
    """The loss or its gradient is no longer a finite number. The weights are those before the
    step.
    """


@dataclass(frozen=True)
class StepRecord:
    """What one step was like. `loss` is the mean over the step's tokens, nats, before the
    update.
    """

    step: int  # 1-based
    loss: float
    lr: float  # of the dense parameters
    gradient_norm: float  # before clipping
    seconds: float


def steps(state: TrainState, batches: Batches) -> Iterator[StepRecord]:
    """Train until the end of the run, yielding after every step; the caller may stop between any
    two.
    """
    while not state.is_done:
        yield train_step(state, batches)


def train_step(state: TrainState, batches: Batches) -> StepRecord:
    """Gradients over the global batch, summed over ranks; clip; optimizer. Raises Diverged before
    anything is changed.
    """
    started = time.perf_counter()
    step, optimizer = state.step + 1, state.optimizer
    state.weights.want_dense_gradients(state.topology.needs_gradients(step))
    loss = accumulate_gradients(state, batches)
    state.reducer.finish([loss, *state.weights.dense_gradients()])
    norm = optimizer.gradient_norm()
    if not (torch.isfinite(norm) and torch.isfinite(loss)):
        raise Diverged(
            f"loss {loss.item():.4g}, gradient norm {norm.item():.4g}{spoilt(state)} at step {step} of "
            f"{state.spec.steps}"
        )
    state.before_change()
    lr = optimizer.step(step, optimizer.clip_factor(norm))
    state.step = step
    record = StepRecord(step, loss.item(), lr, norm.item(), time.perf_counter() - started)
    state.seconds += record.seconds
    if step > 0.9 * state.spec.steps:
        state.late_losses.append(record.loss)
    return record


def accumulate_gradients(state: TrainState, batches: Batches) -> Tensor:
    """Forward and backward over this rank's share of the batch, a micro-batch at a time; returns
    its part of the mean loss.
    """
    start, stop = ranks.share(state.spec.optimizer.batch_sequences)
    size = state.placement.micro_batch or max(1, stop - start)
    total = torch.zeros((), device=state.device)
    for first in range(start, stop, size):
        if first + size >= stop:
            state.reducer.expect_last()
        rows = batches.train(state.step, first, min(first + size, stop))
        dropout = Dropout.of(state.spec, step=state.step + 1, first_row=first)
        loss = state.model(torch.from_numpy(rows).to(state.device), dropout) / state.spec.tokens_per_step
        loss.backward()
        total += loss.detach()
    return total


def spoilt(state: TrainState) -> str:
    """Which sparse matrices have a gradient that is not finite, in words."""
    names = [name for name, matrix in state.weights.matrices.items() if not torch.isfinite(matrix.grad).all()]
    return f" (not finite in {names[0]} and {len(names) - 1} other matrices)" if names else ""
