"""Adding up the gradients of all ranks, in buckets, while the backward pass is still going on.

The compact gradients of all matrices lie in one arena, so a bucket is a slice of it: consecutive
matrices of at least `BUCKET_BYTES`. A bucket is sent as soon as its matrices have their gradients
from the last micro-batch. Buckets are sent in one fixed order, last layer first, the order in which
a backward pass finishes them; a bucket that is ready before its turn waits. So ranks can never send
in different orders, even a rank that has no rows of a batch.

Nothing else is ever sent for sparsity: no masks, no indices. Left out: gradients that do not fit
one machine.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor

from raysparse.sparsity.storage import SparseWeights
from raysparse.train import ranks

BUCKET_BYTES = 16 << 20


class GradientReducer:
    """Sums gradients over ranks in place. With one rank it does nothing."""

    def __init__(self, weights: SparseWeights, others: Iterable[Tensor]):
        self.weights, self.others = weights, list(others)
        self._armed = False
        self._missing: list[set[int]] = []
        self._sent: list[dist.Work] = []
        self.buckets = _buckets(weights) if ranks.count() > 1 else []
        for matrix in weights.matrices.values() if self.buckets else ():
            matrix.on_gradient = self._arrived

    def expect_last(self) -> None:
        """The backward pass that comes now is the last of this step: send what it completes."""
        self._armed = True
        self._missing = [set(numbers) for numbers, _ in self.buckets]

    def finish(self, dense: Iterable[Tensor] = ()) -> None:
        """Send what is left, with the dense parameters' gradients and other tensors, and wait for
        all.
        """
        if not self.buckets:
            return
        for _, gradient in self.buckets[len(self._sent) :]:
            self._send(gradient)
        for tensor in (*self.others, *dense):
            self._send(tensor)
        for work in self._sent:
            work.wait()
        self._sent, self._armed = [], False

    def _arrived(self, number: int) -> None:
        if not self._armed:
            return
        for missing in self._missing:
            missing.discard(number)
        while len(self._sent) < len(self.buckets) and not self._missing[len(self._sent)]:
            self._send(self.buckets[len(self._sent)][1])

    def _send(self, tensor: Tensor) -> None:
        work = dist.all_reduce(tensor, async_op=True)
        assert work is not None
        self._sent.append(work)


def _buckets(weights: SparseWeights) -> list[tuple[list[int], Tensor]]:
    """(numbers of the matrices, their slice of the gradient arena), last layer first."""
    found: list[tuple[list[int], Tensor]] = []
    arena = weights.arena.grad
    stop = start = arena.numel()
    numbers: list[int] = []
    for matrix in reversed(weights.matrices.values()):
        numbers.append(matrix.number)
        start -= matrix.grad.numel()
        if (stop - start) * arena.element_size() >= BUCKET_BYTES or start == 0:
            found.append((numbers, arena[start:stop]))
            numbers, stop = [], start
    return found
