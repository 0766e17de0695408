"""Validation loss: a token-weighted mean in float32 over a fixed set of whole sequences that no
training subset contains.

Sums, not means of batches, are added up (in float64, over ranks too), so the result does not depend
on the batch size. The released code of SMET divides by one batch too many and comes out about 1 %
low.
"""

from __future__ import annotations

import torch

from raysparse.data.order import Batches
from raysparse.results import Evaluation
from raysparse.sparsity.transfer import sent
from raysparse.spec import TrialSpec
from raysparse.train import ranks
from raysparse.train.state import TrainState

SEQUENCES_AT_ONCE = 32


def evaluation_steps(spec: TrialSpec) -> set[int]:
    """The 1-based steps after which a trial is evaluated: `evaluations` equal fractions of its run,
    the last at its end.
    """
    return {max(1, round(spec.steps * k / spec.evaluations)) for k in range(1, spec.evaluations + 1)}


def evaluate(state: TrainState, batches: Batches) -> Evaluation:
    """The loss of the weights and, where a trial keeps it, of their average. Nats per token."""
    loss, average_loss = validation_loss(state, batches), None
    if state.spec.optimizer.average:
        with state.averaged():
            average_loss = validation_loss(state, batches)
    return Evaluation(state.step, state.tokens, loss, average_loss)


@torch.no_grad()
def validation_loss(state: TrainState, batches: Batches) -> float:
    """Every rank takes its share of the validation sequences; all of them return the same result.
    Nats per token.
    """
    start, stop = ranks.share(batches.validation_sequences)
    total = torch.zeros((), dtype=torch.float64, device=state.device)
    for first in range(start, stop, SEQUENCES_AT_ONCE):
        rows = batches.validation(first, min(first + SEQUENCES_AT_ONCE, stop))
        total += state.model(sent(torch.from_numpy(rows), state.device))
    ranks.sum_in_place([total])
    tokens = batches.validation_sequences * state.spec.model.context
    return total.item() / tokens
