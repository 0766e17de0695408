"""The sparse matrices of a model: views of one arena for the active weights, and the products with
them.

Memory is what the counts say: there is no dense copy of a sparse matrix anywhere, only one scratch
matrix that all of them share, filled right before the product that needs it (and reused for that
product's weight gradient); tiles that pay off need not even that. Who has memory to spare can keep
the dense weights instead (`resident`): they are then made once a step.

Left out: how a step changes values (`optimizer`), how blocks change places (`topology`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raysparse.counts import Blocks, block_counts, multiplied, uses_tile_products
from raysparse.kernels import ops, philox
from raysparse.memory import made_dense, needs_scratch
from raysparse.sparsity.arena import COMPUTE_DTYPE, MOMENT_DTYPE, STORAGE_DTYPE, Arena
from raysparse.sparsity.layout import Layout
from raysparse.spec import TrialSpec

INITIAL_VALUES = 2  # what a Philox stream is for
INIT_STD = 0.02


class SparseMatrix:
    """One projection matrix of (rows, columns): a layout, views of the arena for its active
    weights, and its three products.

    A product either multiplies the active tiles (`tiled`), or puts the weights into dense memory
    and multiplies that: the shared `scratch`, or `resident`, which is the matrix's own and stays
    valid until the values change. A matrix of `parts`, which lie side by side in the arena,
    multiplies them all at once; what a part alone has to be told of its gradient, it is told.
    """

    def __init__(
        self,
        number: int,
        layout: Layout,
        arena: Arena,
        start: int,
        first_block: int,
        *,
        scratch: Tensor,
        tiled: bool = False,
        parts: tuple[SparseMatrix, ...] = (),
    ):
        self.number, self.layout, self.parts = number, layout, parts or (self,)
        self.resident: Tensor | None = None  # (rows, columns), in the compute dtype
        self._arena, self._revision = arena, -1
        part = slice(start, start + layout.shape.active_weights)
        self.values, self.grad = arena.values[part], arena.grad[part]
        self.exp_avg, self.exp_avg_sq = arena.exp_avg[part], arena.exp_avg_sq[part]
        self.age = None if arena.age is None else arena.age[first_block : first_block + layout.shape.active]
        self.average = None if arena.average is None else arena.average[part]
        self.dense_gradient: Tensor | None = (
            None  # float32 (rows, columns), only around an update that regrows by gradient
        )
        self.on_gradient: Callable[[int], None] | None = (
            None  # told this matrix's number when a backward pass has added to `grad`
        )
        self.tiled = tiled and not layout.is_full
        self._scratch = scratch

    @property
    def shape(self) -> tuple[int, int]:
        return self.layout.shape.rows, self.layout.shape.columns

    def weight(self) -> Tensor:
        """The dense matrix in the compute dtype, valid until the scratch is used again: use it at
        once, do not keep it.
        """
        if self.layout.is_full and self.values.dtype == self._scratch.dtype:
            return self.values.view(self.shape)
        if self.resident is None:
            return self.layout.expand(self.values, self._scratch_matrix())
        if self._revision != self._arena.revision:
            self.layout.expand(self.values, self.resident)
            self._revision = self._arena.revision
        return self.resident

    def states(self) -> list[Tensor]:
        """What moves along when blocks change places."""
        states = (self.values, self.exp_avg, self.exp_avg_sq, self.age, self.average)
        return [s for s in states if s is not None]

    def product(self, x: Tensor) -> Tensor:
        """x W^T, (tokens, columns) -> (tokens, rows)."""
        if self.tiled:
            product: Tensor = ops.tile_product(x, self._tiles(self.values, x.dtype), self.layout.tiles(), self.shape[0])
            return product
        return x @ self.weight().t()

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """dy W, (tokens, rows) -> (tokens, columns)."""
        if self.tiled:
            tiles = self._tiles(self.values, gradient.dtype)
            found: Tensor = ops.tile_input_gradient(gradient, tiles, self.layout.tiles(), self.shape[1])
            return found
        return gradient @ self.weight()

    def leaf(self) -> Tensor:
        """The weights of a dense matrix as autograd knows a parameter, (rows, columns) as stored.
        It and its gradient are views of the arena.
        """
        leaf = self.values.view(self.shape).detach().requires_grad_()
        leaf.grad = self.grad.view(self.shape)
        leaf.register_post_accumulate_grad_hook(lambda _: self._tell())  # type: ignore[no-untyped-call]
        return leaf

    def accumulate_gradient(self, gradient: Tensor, x: Tensor) -> None:
        """Add dy^T x to the compact gradient: dy (tokens, rows), x (tokens, columns)."""
        self._accumulate(gradient, x)
        self._tell()

    def _tell(self) -> None:
        for part in self.parts:
            if part.on_gradient is not None:
                part.on_gradient(part.number)

    def _accumulate(self, gradient: Tensor, x: Tensor) -> None:
        if self.layout.is_full and self.grad.dtype == x.dtype:
            self.grad.view(self.shape).addmm_(gradient.t(), x)
        elif self.tiled and all(p.dense_gradient is None for p in self.parts):
            ops.tile_weight_gradient(gradient, x, self.layout.tiles(), self._tiles(self.grad, self.grad.dtype))
        else:
            dense = torch.mm(gradient.t(), x, out=self._scratch_matrix())
            self.layout.compact_accumulate(dense, self.grad)
            for part, rows in zip(self.parts, torch.split(dense, [p.shape[0] for p in self.parts]), strict=True):
                if part.dense_gradient is not None:
                    part.dense_gradient.add_(rows)

    def _scratch_matrix(self) -> Tensor:
        """The shared scratch memory as a matrix of this shape; whoever uses it next overwrites
        it.
        """
        rows, columns = self.shape
        return self._scratch[: rows * columns].view(rows, columns)

    def _tiles(self, state: Tensor, dtype: torch.dtype) -> Tensor:
        return state.view(-1, self.layout.block, self.layout.block).to(dtype)


class SparseWeights:
    """All projection matrices of a model. Initial values and masks are functions of the seed and
    the matrix's number alone.
    """

    def __init__(self, spec: TrialSpec, *, device: torch.device | str = "cpu", resident: bool = False):
        blocks = block_counts(spec.model, spec.sparsity)
        ages = (
            sum(b.active for b in blocks.values())
            if spec.sparsity.changes_topology and spec.sparsity.uses_local_age
            else 0
        )
        self.arena = Arena(
            sum(b.active_weights for b in blocks.values()),
            ages=ages,
            dtype=STORAGE_DTYPE[spec.precision],
            moments=MOMENT_DTYPE[spec.optimizer.moments],
            device=device,
            averages=spec.optimizer.average > 0,
        )
        place, compute = torch.device(device).type, COMPUTE_DTYPE[spec.precision]
        products = multiplied(blocks, place)
        largest = max(b.rows * b.columns for b in products.values()) if needs_scratch(spec, place) else 0
        self._scratch = torch.empty(largest, dtype=compute, device=device)
        tiled = uses_tile_products(spec.sparsity, spec.precision, place)
        self.matrices: dict[str, SparseMatrix] = {}
        self._products: dict[tuple[str, ...], SparseMatrix] = {}
        start = first_block = 0
        starts = {}
        for number, (name, shape) in enumerate(blocks.items()):
            layout = _first_layout(spec, number, shape, device)
            starts[name] = start, first_block
            matrix = SparseMatrix(number, layout, self.arena, *starts[name], scratch=self._scratch, tiled=tiled)
            layout.compact_accumulate(_initial_values(spec.seed, number, matrix.shape).to(device), matrix.values)
            self.matrices[name] = matrix
            start += shape.active_weights
            first_block += shape.active
        for names, shape in products.items():
            parts = tuple(self.matrices[name] for name in names)
            matrix = parts[0]
            if len(parts) > 1:
                layout = Layout.joined([p.layout for p in parts], shape)
                matrix = SparseMatrix(
                    matrix.number, layout, self.arena, *starts[names[0]], scratch=self._scratch, tiled=tiled,
                    parts=parts,
                )  # fmt: skip
            if resident and made_dense(spec, shape, place):
                matrix.resident = torch.empty(matrix.shape, dtype=compute, device=device)
            self._products[names] = matrix

    def multiplied(self, *names: str) -> list[SparseMatrix]:
        """What products with matrices of one input go through: one for all of them, or each."""
        return [self._products[names]] if names in self._products else [self.matrices[name] for name in names]

    def want_dense_gradients(self, wanted: bool) -> None:
        """Give every matrix that can change a zeroed dense gradient to fill, or take them all
        away.
        """
        for matrix in self.matrices.values():
            is_kept = wanted and not matrix.layout.is_full
            matrix.dense_gradient = torch.zeros(matrix.shape, device=self.arena.values.device) if is_kept else None

    def dense_gradients(self) -> list[Tensor]:
        return [m.dense_gradient for m in self.matrices.values() if m.dense_gradient is not None]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"arena": self.arena.states(), "masks": self._masks()}

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.arena.load(state["arena"])
        for name, mask in state["masks"].items():
            self.matrices[name].layout.replace(mask)

    def checksum(self) -> int:
        """A number that two ranks share only if they have the same topology (up to a chance of
        2^-63). Waits for the device once.
        """
        total = torch.zeros((), dtype=torch.int64, device=self.arena.values.device)
        for number, mask in enumerate(self._masks().values()):
            place = torch.arange(1, mask.numel() + 1, device=mask.device)
            total += (mask.long() * (place * 0x9E3779B97F4A7C15 % (1 << 61) | 1)).sum() * (2 * number + 1)
        return int(total) % (1 << 62)

    def bytes_by_kind(self) -> dict[str, int]:
        """Bytes really held, by the kinds of `memory.MemoryBytes`."""
        layouts = {id(m.layout): m.layout for m in (*self._products.values(), *self.matrices.values())}
        resident = [m.resident for m in self._products.values() if m.resident is not None]
        return {
            **self.arena.bytes_by_kind(),
            "layout": sum(layout.nbytes for layout in layouts.values()),
            "scratch": self._scratch.nbytes,
            "resident": sum(dense.nbytes for dense in resident),
        }

    def _masks(self) -> dict[str, Tensor]:
        return {name: m.layout.mask for name, m in self.matrices.items() if m.layout.mask is not None}


def _first_layout(spec: TrialSpec, number: int, shape: Blocks, device: torch.device | str) -> Layout:
    rule = spec.sparsity
    return Layout.random(
        rule.layout, rule.block, shape, seed=spec.seed, matrix=number, device=device, balanced=rule.balanced
    )  # fmt: skip


def _initial_values(seed: int, number: int, shape: tuple[int, int]) -> Tensor:
    """N(0, 0.02) float32: every density starts from the same dense matrix, of which it keeps its
    active weights.
    """
    generator = torch.Generator().manual_seed(philox.stream(seed, number, INITIAL_VALUES) >> 1)
    return torch.empty(shape).normal_(0.0, INIT_STD, generator=generator)
