"""A linear layer over a `SparseMatrix`: forward, input gradient and weight gradient without a dense
weight of its own.

The weight is no autograd tensor. The backward pass writes the weight gradient straight into the
compact arena, so a dense gradient of a sparse matrix exists only in the shared scratch, for the
time of one product (or not at all, for tiles). For the same reason the dense weight is expanded
again in the backward pass instead of being saved. No bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from raysparse.model.apart import apart
from raysparse.sparsity.storage import SparseMatrix, SparseWeights


class _Product(torch.autograd.Function):
    """y = x W^T for x (tokens, columns), W (rows, columns)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.save_for_backward(x)
        ctx.matrix = matrix
        return matrix.product(x)

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        gradient = output_gradients[0].contiguous()
        ctx.matrix.accumulate_gradient(gradient, x)
        return ctx.matrix.input_gradient(gradient), None


class SparseLinear(nn.Module):
    """x (..., columns) -> (..., rows) by each of the matrices of these names, or, where they are
    one product, all side by side as one (..., sum of rows). Gradients of the weights go to their
    `grad`; call backward at most once per forward.
    """

    def __init__(self, weights: SparseWeights, *names: str):
        super().__init__()
        self.matrices = weights.multiplied(*names)

    # It writes gradients as a side effect: torch.compile leaves it alone and compiles what lies
    # between.
    @apart
    def forward(self, x: Tensor) -> list[Tensor]:
        flat = x.reshape(-1, x.shape[-1])
        return [_Product.apply(flat, m).view(*x.shape[:-1], m.shape[0]) for m in self.matrices]  # type: ignore[no-untyped-call]


class DenseLinear(nn.Module):
    """The same of dense matrices, for torch's compiler: the products are autograd's, so that a
    layer is one graph, and their gradients arrive at the same places.
    """

    def __init__(self, weights: SparseWeights, *names: str):
        super().__init__()
        self.leaves = [m.leaf() for m in weights.multiplied(*names)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.linear(x, leaf.to(x.dtype)) for leaf in self.leaves]
