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
from torch import Tensor, nn

from raysparse.sparsity.storage import SparseMatrix


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
    """x (..., columns) -> (..., rows). Gradients of the weight go to `matrix.grad`; call backward
    at most once per forward.
    """

    def __init__(self, matrix: SparseMatrix):
        super().__init__()
        self.matrix = matrix

    # It writes gradients as a side effect: torch.compile leaves it alone and compiles what lies
    # between.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.matrix.shape
        product: Tensor = _Product.apply(x.reshape(-1, columns), self.matrix)  # type: ignore[no-untyped-call]
        return product.view(*x.shape[:-1], rows)
