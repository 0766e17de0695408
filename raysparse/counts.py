"""What a trial costs before it runs: parameters by kind, FLOPs active and executed. Pure
arithmetic, no torch.

Every count is kept apart and exact. The papers multiply all non-embedding weights by the density,
the dense head included, which under-counts active weights up to 4.8 times on small models
(docs/method.md); here a law or a budget names the count that it uses. `block_counts` is also
what the layouts are built from, so a count cannot disagree with the model that is trained.

Left out: bytes (`memory`), measured seconds (`results`), and any choice of kernels.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from raysparse.spec import ModelSpec, Precision, SparsitySpec, TrialSpec


@dataclass(frozen=True)
class Blocks:
    """How many blocks of one sparse matrix are active: `active` of `total`, each of `size`
    weights.
    """

    rows: int
    columns: int
    size: int
    total: int
    active: int

    @property
    def active_weights(self) -> int:
        return self.active * self.size


def block_counts(model: ModelSpec, sparsity: SparsitySpec) -> dict[str, Blocks]:
    """Active blocks of every projection; each within half a block of its density, never fewer than
    one (of each row's, balanced).

    `erk` gives matrix l a density proportional to (rows + columns) / (rows * columns), capped at 1,
    with the total preserved (docs/method.md); `uniform` gives all the same.
    """
    sparsity.check_blocks(model.projections)
    size = sparsity.block_size
    densities = _densities(model.projections, sparsity)
    found = {}
    for name, (rows, columns) in model.projections.items():
        total = rows * columns // size
        parts = rows // sparsity.block if sparsity.balanced else 1
        found[name] = Blocks(rows, columns, size, total, parts * max(1, round(densities[name] * total / parts)))
    return found


# What takes the same input within a layer.
JOINED = (("attention.query", "attention.key", "attention.value"), ("mlp.gate", "mlp.up"))
WORD = 32  # blocks in a word of a mask, which two matrices cannot share


def multiplied(blocks: dict[str, Blocks], device: str) -> dict[tuple[str, ...], Blocks]:
    """The products of a model: which matrices each takes, one below the other.

    On a GPU, matrices with the same input are one product, where whole words of a mask are theirs.
    On a CPU each is its own: it would save nothing there, and change the order of sums.
    """
    found: dict[tuple[str, ...], Blocks] = {}
    for name, shape in blocks.items():
        *layer, place = name.split(".", 2)
        group = next((g for g in JOINED if place in g), (place,))
        names = tuple(".".join([*layer, other]) for other in group)
        parts = [blocks[n] for n in names]
        if device.startswith("cpu") or not _can_join(parts):
            found[name,] = shape
        elif names not in found:
            rows, total, active = (sum(getattr(p, what) for p in parts) for what in ("rows", "total", "active"))
            found[names] = Blocks(rows, shape.columns, shape.size, total, active)
    return found


def _can_join(parts: list[Blocks]) -> bool:
    full = {p.active == p.total for p in parts}
    return full == {True} or (full == {False} and all(p.total % WORD == 0 for p in parts))


def _densities(shapes: dict[str, tuple[int, int]], sparsity: SparsitySpec) -> dict[str, float]:
    if sparsity.distribution == "uniform" or sparsity.density == 1.0:
        return dict.fromkeys(shapes, sparsity.density)
    weight = {name: (r + c) / (r * c) for name, (r, c) in shapes.items()}
    capped: set[str] = set()
    while True:  # each round caps at least one matrix more, so it ends
        budget = sparsity.density * sum(r * c for r, c in shapes.values())
        budget -= sum(math.prod(shapes[name]) for name in capped)
        free = [name for name in shapes if name not in capped]
        scale = budget / sum(weight[name] * math.prod(shapes[name]) for name in free)
        over = {name for name in free if scale * weight[name] > 1.0}
        if not over:
            return {name: 1.0 if name in capped else scale * weight[name] for name in shapes}
        capped |= over


@dataclass(frozen=True)
class ParameterCounts:
    """Weights by kind; `sparse_*` are the projections of attention and MLP, of any method, dense
    included.
    """

    embedding: int
    head: int
    norm: int
    sparse_total: int
    sparse_active: int

    @property
    def total(self) -> int:
        """Weights of the dense-equivalent model."""
        return self.embedding + self.head + self.norm + self.sparse_total

    @property
    def active(self) -> int:
        return self.embedding + self.head + self.norm + self.sparse_active

    @property
    def active_non_embedding(self) -> int:
        """N of the law unless it says otherwise: everything that takes part in a product or a
        norm.
        """
        return self.head + self.norm + self.sparse_active

    @property
    def total_non_embedding(self) -> int:
        return self.head + self.norm + self.sparse_total


@functools.lru_cache(maxsize=4096)  # a search prices hundreds of trials that differ in few shapes
def parameters(model: ModelSpec, sparsity: SparsitySpec) -> ParameterCounts:
    blocks = block_counts(model, sparsity).values()
    return ParameterCounts(
        embedding=model.vocab_size * model.hidden,
        head=model.vocab_size * model.hidden,
        norm=(2 * model.layers + 1) * model.hidden,
        sparse_total=sum(b.rows * b.columns for b in blocks),
        sparse_active=sum(b.active_weights for b in blocks),
    )


def attention_flops_per_token(model: ModelSpec) -> float:
    """Scores and weighted values, forward and backward, with the causal half of the context: 6 *
    layers * hidden * context.
    """
    return 6.0 * model.layers * model.hidden * model.context


# Largest density at which products over active tiles beat the dense product, by (device, dtype of
# the product, side of a tile). From benchmarks/results/tiles-cpu.json, rounded down (a test
# compares), of a 2-core x86 CPU with AVX512-BF16. The rows of GPUs are cautious guesses, a third of
# what rooflines say (.30-.41 for tiles of 64, .53-.73 for 128): nothing was measured there.
TILE_BREAK_EVEN: dict[tuple[str, str, int], float] = {
    ("cpu", "fp32", 16): 0.2, ("cpu", "fp32", 32): 0.45, ("cpu", "fp32", 64): 0.65, ("cpu", "fp32", 128): 0.7,
    ("cuda", "bf16", 64): 0.125, ("cuda", "bf16", 128): 0.25,
    ("cpu", "bf16", 16): 0.04, ("cpu", "bf16", 32): 0.15, ("cpu", "bf16", 64): 0.4, ("cpu", "bf16", 128): 0.65,
}  # fmt: skip


def uses_tile_products(sparsity: SparsitySpec, precision: Precision = "fp32", device: str = "cpu") -> bool:
    """Whether products skip inactive tiles. Elsewhere a dense product runs over memory that the
    active weights are put into.
    """
    dtype = "fp32" if precision == "fp32" else "bf16"
    limit = TILE_BREAK_EVEN.get((device.split(":")[0], dtype, sparsity.block), 0.0)
    return sparsity.layout == "tile" and sparsity.density <= limit


@functools.lru_cache(maxsize=4096)
def flops_per_token(
    model: ModelSpec, sparsity: SparsitySpec, *, precision: Precision = "fp32", device: str = "cpu"
) -> tuple[float, float]:
    """(active, executed) training FLOPs of one token: 6 per weight that takes part, plus attention.

    active counts the active weights; executed counts what the products really compute: the dense
    product for masks of single weights and runs, the active tiles where tile products are used.
    """
    counts = parameters(model, sparsity)
    attention = attention_flops_per_token(model)
    active = 6.0 * counts.active_non_embedding + attention
    dense = 6.0 * counts.total_non_embedding + attention
    return active, active if uses_tile_products(sparsity, precision, device) else dense


def flops(spec: TrialSpec, *, device: str = "cpu") -> tuple[float, float]:
    """(active, executed) training FLOPs of a whole trial."""
    active, executed = flops_per_token(spec.model, spec.sparsity, precision=spec.precision, device=device)
    return active * spec.tokens, executed * spec.tokens


def epochs_for(spec: TrialSpec, budget: float, unit: str = "flops_active", *, device: str = "cpu") -> float:
    """Passes over the unique tokens for which whole steps come nearest to `budget` FLOPs.

    unit: flops_active or flops_executed. Everything else is the spec's. At least one step.
    """
    per_token = flops_per_token(spec.model, spec.sparsity, precision=spec.precision, device=device)
    one_step = per_token[0 if unit == "flops_active" else 1] * spec.tokens_per_step
    steps = max(1, round(budget / one_step))
    return steps * spec.optimizer.batch_sequences / spec.unique_sequences
