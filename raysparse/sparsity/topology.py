"""Topology updates: prune the weakest active blocks of every matrix, regrow as many inactive ones.

The decision that shaped this file: an update is a pure function of (weights, seed, matrix, update number), so ranks agree without
talking and a resumed run repeats itself. The number of active blocks never changes, so storage never moves: survivors and
regrown blocks are put back in ascending order in place. A regrown block starts with value, moments and age 0. A block that was
pruned cannot be regrown in the same update (as in the released SMET code).

Rules: prune by the sum of |w|, or softly, keeping a block with probability growing as score^3 (Gumbel keys); regrow uniformly at
random, or by the largest |gradient| (rigl, smet_grad). The share that changes falls along a cosine over the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raysparse.kernels import philox, reference
from raysparse.sparsity.storage import FROM_THE_START, SparseMatrix, SparseWeights
from raysparse.spec import SparsitySpec, TrialSpec

REGROW, PRUNE = 4, 5  # what a Philox stream is for
SOFT_EXPONENT = 3.0  # T of the soft rule: a block survives in proportion to score^T (REFERENCE section 1)


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
    """When and how a trial's topology changes. Stateless: everything follows from the spec and the step."""

    def __init__(self, spec: TrialSpec):
        self.spec = spec

    def due(self, step: int) -> bool:
        """Whether an update follows 1-based step `step`; none follows the last, since nothing would train on it."""
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
            age.add_((age < FROM_THE_START).to(torch.uint8))
        regrown = active = 0
        for matrix in weights.matrices.values():
            regrown += self._update_matrix(matrix, ratio, number)
            active += matrix.layout.shape.active
        return Change(number, regrown, active)

    def _update_matrix(self, matrix: SparseMatrix, ratio: float, number: int) -> int:
        shape, index = matrix.layout.shape, matrix.layout.index
        count = min(round(ratio * shape.active), shape.total - shape.active)
        if index is None or count == 0:
            return 0
        pruned = reference.smallest(self._prune_keys(matrix, number), count)
        inactive = matrix.layout.inactive()
        regrown = inactive[reference.smallest(self._regrow_keys(matrix, inactive, number), count)]
        replace_blocks(matrix, pruned, regrown)
        return count

    def _prune_keys(self, matrix: SparseMatrix, number: int) -> Tensor:
        scores = reference.block_scores(matrix.values, matrix.layout.shape.size)
        if self.spec.sparsity.prune == "magnitude":
            return reference.order_bits(scores)
        noise = philox.uniform(philox.stream(self.spec.seed, matrix.number, number, PRUNE), len(scores), device=scores.device)
        # exp(log(score) * T + Gumbel), as a product, so that the keys stay non-negative and sort by their bits
        return reference.order_bits(scores**SOFT_EXPONENT / -noise.log())

    def _regrow_keys(self, matrix: SparseMatrix, inactive: Tensor, number: int) -> Tensor:
        if self.spec.sparsity.regrows_by_gradient:
            gradient = matrix.dense_gradient
            if gradient is None:
                raise RuntimeError(f"matrix {matrix.number} was to regrow by gradient but no dense gradient was collected")
            scores = matrix.layout.blocks_of(gradient).abs().sum(dim=1)[inactive]
            return 0x7FFFFFFF - reference.order_bits(scores)  # the smallest key has the largest gradient
        key = philox.stream(self.spec.seed, matrix.number, number, REGROW)
        return philox.words(key, matrix.layout.shape.total, device=inactive.device)[inactive]


def update_ratio(sparsity: SparsitySpec, step: int, steps: int) -> float:
    """Share of the active blocks replaced after `step`: a cosine from `update_ratio` to `update_ratio_final` over the run."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return sparsity.update_ratio_final + (sparsity.update_ratio - sparsity.update_ratio_final) * cosine


def replace_blocks(matrix: SparseMatrix, pruned: Tensor, regrown: Tensor) -> None:
    """Take the active blocks at positions `pruned` out and put the blocks numbered `regrown` in, keeping ascending order."""
    index = matrix.layout.index
    assert index is not None
    kept = torch.ones(len(index), dtype=torch.bool, device=index.device)
    kept[pruned] = False
    joined, order = torch.cat([index[kept], regrown.to(torch.int32)]).sort()
    index.copy_(joined)
    for state in (matrix.values, matrix.exp_avg, matrix.exp_avg_sq):
        blocks = state.view(len(index), -1)
        blocks.copy_(torch.cat([blocks[kept], blocks.new_zeros(len(regrown), blocks.shape[1])])[order])
    if matrix.age is not None:
        matrix.age.copy_(torch.cat([matrix.age[kept], matrix.age.new_zeros(len(regrown))])[order])
