"""A trial that begins with the weights of another: more epochs, more text, another density.

A continued trial is a new trial: it names its parent, has a schedule of its own (warm-up and decay
from the peak rate again, moments and ages from nothing), the next seed, so that its epochs come in
another order, and its own row, which counts its own tokens and FLOPs; the parent's are in the
parent's row. Fewer unique tokens are a prefix of more, so a larger text begins with what was seen.

With another density, a matrix keeps the blocks of the largest magnitude. What is short is filled up
with inactive blocks at random, at 0, so that a model made denser computes what it did. Left out:
another shape or vocabulary, and going on with the parent's schedule (a checkpoint does that).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raysparse.files import Folder
from raysparse.kernels import bitmask, philox
from raysparse.release.opened import OpenedModel
from raysparse.sparsity.layout import Layout
from raysparse.sparsity.storage import SparseMatrix, SparseWeights
from raysparse.spec import SparsitySpec, TrialSpec
from raysparse.train import checkpoint

FILLING = 8  # what a Philox stream is for


def continued_spec(
    parent: OpenedModel, epochs: float, *, unique_tokens: int | None = None, sparsity: SparsitySpec | None = None,
    seed: int | None = None,
) -> TrialSpec:  # fmt: skip
    """The trial that goes on from a model for `epochs` passes. Raises ValueError for a model that
    was not trained to its end.
    """
    spec = parent.spec
    if not parent.is_whole:
        raise ValueError(f"{parent.where.uri} stopped at step {parent.step} of {spec.steps}; train it to its end first")
    data = spec.data.replace(epochs=epochs, unique_tokens=unique_tokens or spec.data.unique_tokens)
    rule = sparsity or spec.sparsity
    kind = "dense" if rule.density == 1.0 else f"d={rule.density:.3g}"
    return spec.replace(
        data=data,
        sparsity=rule,
        seed=spec.seed + 1 if seed is None else seed,
        parent=f"{spec.trial_id}:average" if parent.average else spec.trial_id,
        name=f"{spec.model.name} {kind} U={data.unique_tokens} x{epochs:.3g}, from {spec.trial_id}",
    )


def save_start(parent: OpenedModel, spec: TrialSpec, folder: Folder) -> None:
    """Write the parent's weights, in the layout of the new trial, into the new trial's folder."""
    checkpoint.save_start(folder, start_of(parent, spec))


def start_of(parent: OpenedModel, spec: TrialSpec) -> dict[str, Any]:
    """The weights that `spec` begins with, as `train.weights.load_weights` takes them; of an export
    with its tokenizer's fingerprint, since the tokens that are made here may be others.
    """
    new = SparseWeights(spec)
    for name, matrix in new.matrices.items():
        adopt(matrix, parent.weights.matrices[name], seed=spec.seed, balanced=spec.sparsity.balanced)
    state = new.state_dict()
    return {
        "trial_id": spec.parent,
        "tokenizer": parent.tokenizer.fingerprint if parent.exported else "",
        "weights": {"arena": {"values": state["arena"]["values"]}, "masks": state["masks"]},
        "tables": {"values": flat(parent.model.tables())},
        "norms": {"values": flat(parent.model.norms())},
    }


def flat(parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in parameters])


def adopt(new: SparseMatrix, old: SparseMatrix, *, seed: int, balanced: bool) -> None:
    """Fill a matrix with the values of another of its shape, and choose its blocks by them."""
    dense = expanded(old, old.values)
    if not new.layout.is_full:
        if same_blocks(new.layout, old.layout) and (not balanced or is_balanced(old.layout)):
            assert old.layout.mask is not None
            new.layout.replace(old.layout.mask.cpu())
        else:
            active = expanded(old, torch.ones_like(old.values))
            rows = new.layout.shape.rows // new.layout.block if balanced else 1
            key = philox.stream(seed, new.number, FILLING)
            new.layout.replace(largest(new.layout, dense, active, key, rows))
    new.values.zero_()
    new.layout.compact_accumulate(dense.to(new.values.dtype), new.values)


def same_blocks(one: Layout, other: Layout) -> bool:
    return (one.kind, one.block, one.shape) == (other.kind, other.block, other.shape)


def is_balanced(layout: Layout) -> bool:
    """Whether every row of tiles has as many active ones, whatever rule chose them."""
    assert layout.mask is not None
    active = bitmask.unpack(layout.mask.cpu(), layout.shape.total)
    held = active.view(layout.shape.rows // layout.block, -1).sum(dim=1)
    return bool((held == held[0]).all())


def expanded(matrix: SparseMatrix, values: Tensor) -> Tensor:
    """float32 (rows, columns) on the CPU."""
    empty = torch.empty(matrix.shape, dtype=values.dtype, device=values.device)
    return matrix.layout.expand(values, empty).float().cpu()


def largest(layout: Layout, dense: Tensor, active: Tensor, key: int, rows: int) -> Tensor:
    """The mask of as many blocks as a layout has, as many in each of `rows` parts: those of the
    largest sum of magnitudes, then those that hold an active weight, then others at random.
    """
    total, wanted = layout.shape.total, layout.shape.active
    order = philox.words(key, 0, total).argsort(stable=True)
    held = layout.block_sums(active) > 0
    for score in (held.double(), layout.block_sums(dense.abs()).double()):  # what counts most is sorted by last
        order = order[score[order].argsort(descending=True, stable=True)]
    place = torch.empty(total, dtype=torch.int64).index_copy_(0, order, torch.arange(total))
    in_part = place.view(rows, -1).argsort(dim=1).argsort(dim=1)
    return bitmask.pack((in_part < wanted // rows).flatten())
