"""One training step, in one screen. Everything that happens only now and then is a hook
(`hooks`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.data.order import Batches
from raysparse.model.dropout import Dropout
from raysparse.sparsity.transfer import sent
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
    factor = optimizer.clip_factor(norm)
    prefetch(state, batches, step)
    mean_loss, gradient_norm = read_back(loss, norm)
    if not (math.isfinite(mean_loss) and math.isfinite(gradient_norm)):
        raise Diverged(
            f"loss {mean_loss:.4g}, gradient norm {gradient_norm:.4g}{spoilt(state)} at step {step} of "
            f"{state.spec.steps}"
        )
    state.before_change()
    lr = optimizer.step(step, factor)
    state.step = step
    record = StepRecord(step, mean_loss, lr, gradient_norm, time.perf_counter() - started)
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
        rows = take_rows(state, batches, state.step, first, min(first + size, stop))
        dropout = Dropout.of(state.spec, step=state.step + 1, first_row=first)
        loss = state.model(rows, dropout) / state.spec.tokens_per_step
        loss.backward()
        total += loss.detach()
    return total


def read_back(loss: Tensor, norm: Tensor) -> tuple[float, float]:
    """Both numbers, in the one wait for the device of a step. It comes when all of the step but the
    optimizer is under way, and the device has the optimizer to do while the host begins the next.
    """
    mean_loss, gradient_norm = torch.stack([loss, norm]).tolist()
    return mean_loss, gradient_norm


def take_rows(state: TrainState, batches: Batches, step: int, first: int, stop: int) -> Tensor:
    """Rows of a batch on the device, from those fetched ahead if they are those."""
    key, rows = state.fetched
    return rows if rows is not None and key == (step, first, stop) else fetch(state, batches, step, first, stop)


def fetch(state: TrainState, batches: Batches, step: int, first: int, stop: int) -> Tensor:
    return sent(torch.from_numpy(batches.train(step, first, stop)), state.device)


def prefetch(state: TrainState, batches: Batches, step: int) -> None:
    """The next step's first rows, read from the disk while the device is busy with this one's."""
    start, stop = ranks.share(state.spec.optimizer.batch_sequences)
    if step < state.spec.steps and start < stop:
        stop = min(start + (state.placement.micro_batch or stop - start), stop)
        state.fetched = (step, start, stop), fetch(state, batches, step, start, stop)


def spoilt(state: TrainState) -> str:
    """Which sparse matrices have a gradient that is not finite, in words."""
    names = [name for name, matrix in state.weights.matrices.items() if not torch.isfinite(matrix.grad).all()]
    return f" (not finite in {names[0]} and {len(names) - 1} other matrices)" if names else ""
