"""Topology updates: prune the weakest active blocks of every matrix, regrow as many inactive ones.

An update is a pure function of (weights, seed, matrix, update number), so ranks agree without
talking and a resumed run repeats itself. The number of active blocks never changes, so storage
stays where it is: survivors and regrown blocks are put back in ascending order inside it. A regrown
block starts with value, moments, average and age 0. A block that was pruned cannot be regrown in
the same update (as in the released SMET code).

Rules: prune by the sum of |w|, or softly, keeping a block with probability growing as score^3
(Gumbel keys); regrow uniformly at random, or by the largest |gradient| (rigl, smet_grad). Balanced
tiles are pruned as all are, then every row regrows as many as it lost (of those just pruned only
where nothing else is left in the row). The share that changes falls along a cosine over the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from raysparse.kernels import ops, philox
from raysparse.sparsity.arena import FROM_THE_START
from raysparse.sparsity.storage import SparseMatrix, SparseWeights
from raysparse.spec import SparsitySpec, TrialSpec

REGROW, PRUNE = 4, 5  # what a Philox stream is for
SOFT_EXPONENT = 3.0  # T of the soft rule: a block survives in proportion to score^T (docs/method.md)


@dataclass(frozen=True)
class Change:
    """One topology update of the whole model."""

    update: int  # 1-based
    regrown: int  # blocks
    active: int

    @property
    def regrown_share(self) -> float:
        return self.regrown / self.active


class Topology:
    """When and how a trial's topology changes. Stateless: everything follows from the spec and the
    step.
    """

    def __init__(self, spec: TrialSpec):
        self.spec = spec

    def due(self, step: int) -> bool:
        """Whether an update follows 1-based step `step`; none follows the last, since nothing would
        train on it.
        """
        sparsity = self.spec.sparsity
        return sparsity.changes_topology and step % sparsity.update_every == 0 and step < self.spec.steps

    def needs_gradients(self, step: int) -> bool:
        return self.spec.sparsity.regrows_by_gradient and self.due(step)

    def update(self, weights: SparseWeights, step: int) -> Change:
        """Change every matrix once and age the blocks that stayed."""
        number = step // self.spec.sparsity.update_every
        ratio = update_ratio(self.spec.sparsity, step, self.spec.steps)
        age = weights.arena.age
        if age is not None:
            age.clamp_(max=FROM_THE_START - 1).add_(1)  # stops at FROM_THE_START, with no temporary
        regrown = active = 0
        for matrix in weights.matrices.values():
            regrown += self._update_matrix(matrix, ratio, number)
            active += matrix.layout.shape.active
        weights.arena.revision += 1
        return Change(number, regrown, active)

    def _update_matrix(self, matrix: SparseMatrix, ratio: float, number: int) -> int:
        layout, shape, mask = matrix.layout, matrix.layout.shape, matrix.layout.mask
        count = min(round(ratio * shape.active), shape.total - shape.active)
        if mask is None or count == 0:
            return 0
        if self.spec.sparsity.balanced:  # which blocks a row regrows depends on which it lost
            pruned = self._pruned(matrix, count, number)
            regrown = self._regrown(matrix, mask, count, number, layout.survivors(pruned))
        else:  # before `pruned` exists: at most one of the two large things is made at a time
            regrown = self._regrown(matrix, mask, count, number)
            pruned = self._pruned(matrix, count, number)
        layout.exchange(pruned, regrown, matrix.states())
        return count

    def _pruned(self, matrix: SparseMatrix, count: int, number: int) -> Tensor:
        """The active blocks to take out, bool (active,)."""
        is_soft = self.spec.sparsity.prune == "soft_magnitude"
        noise = philox.stream(self.spec.seed, matrix.number, number, PRUNE) if is_soft else None
        return ops.weakest(matrix.values, matrix.layout.shape.size, count, noise=noise, exponent=SOFT_EXPONENT)

    def _regrown(
        self, matrix: SparseMatrix, mask: Tensor, count: int, number: int, survivors: Tensor | None = None
    ) -> Tensor:
        """A mask of the `count` blocks to take in; with `survivors`, as many in every row as these
        are short of.
        """
        layout, gradient = matrix.layout, matrix.dense_gradient
        key = philox.stream(self.spec.seed, matrix.number, number, REGROW)
        scores: Tensor | None = None
        if self.spec.sparsity.regrows_by_gradient:
            if gradient is None:
                raise RuntimeError(
                    f"matrix {matrix.number} was to regrow by gradient but no dense gradient was collected"
                )
            scores = layout.block_sums(gradient.abs_())
        regrown: Tensor
        if survivors is not None:
            regrown = layout.regrown_in_rows(survivors, key, scores)
        elif scores is not None:
            regrown = ops.regrow_largest(mask, scores, count)
        else:
            regrown = ops.regrow_at_random(mask, layout.shape.total, count, key)
        return regrown


def update_ratio(sparsity: SparsitySpec, step: int, steps: int) -> float:
    """Share of the active blocks replaced after `step`: a cosine from `update_ratio` to
    `update_ratio_final` over the run.
    """
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return sparsity.update_ratio_final + (sparsity.update_ratio - sparsity.update_ratio_final) * cosine
