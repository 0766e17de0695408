"""Bytes of one worker by kind, before it runs, and the largest micro-batch that a device holds.

Storage is exact. Activations are what autograd keeps of a forward pass, tensor by tensor (a test
adds up what it really keeps): on a CPU, where an RMSNorm is several operations, two float32 copies
of its input, on a GPU, where it is one, its input alone. Recomputation keeps less of them and makes
the rest again, a part of the model at a time, before the backward pass needs it.

Left out: gradients of activations and the temporaries of a product, which live for one operation,
and what an allocator loses; `fitted` leaves a tenth of a device for them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from raysparse.counts import Blocks, block_counts, multiplied, parameters, uses_tile_products
from raysparse.placement import Placement, Recompute
from raysparse.spec import TrialSpec

LOGIT_CHUNK_ELEMENTS = 1 << 22  # on a CPU
GPU_LOGIT_CHUNK_ELEMENTS = 1 << 26  # .7 GB with their gradient, of a card's tens
USABLE = 0.9  # of a device: the rest is for temporaries, for its driver and for what an allocator loses
ENOUGH_TOKENS = 8192  # in a forward pass: products gain little from more


@dataclass(frozen=True)
class MemoryBytes:
    """Predicted bytes of one worker by kind, at the peak of a training step."""

    weights: int
    gradients: int
    moments: int
    average: int  # of the weights, float32
    ages: int
    layout: int
    dense_gradients: int  # float32, around an update that regrows by gradient
    scratch: int  # one dense matrix that all share
    resident: int  # dense weights kept from product to product, if the placement says so
    activations: int  # kept from the forward pass to the backward pass
    recomputed: int  # those of one part of the model that is made again
    logits: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def logit_elements(tokens: int, vocabulary: int, hidden: int, device: str = "cpu") -> int:
    """How many logits exist at a time (model/loss.py): as many numbers as the hidden states have,
    and at least 4 million, on a GPU 67 million, so that products stay large and the head's gradient
    is not added to more often than needed.
    """
    least = LOGIT_CHUNK_ELEMENTS if device.startswith("cpu") else GPU_LOGIT_CHUNK_ELEMENTS
    return min(tokens * vocabulary, max(least, tokens * hidden))


def needs_scratch(spec: TrialSpec, device: str = "cpu") -> bool:
    """Whether a dense matrix is ever made: not where weights are dense already, and not for tiles
    that are multiplied as such.
    """
    blocks = block_counts(spec.model, spec.sparsity).values()
    return gathers_gradients(spec) or any(made_dense(spec, b, device) for b in blocks)


def gathers_gradients(spec: TrialSpec) -> bool:
    """Whether every matrix that is not full has a dense gradient at each step before an update."""
    return spec.sparsity.regrows_by_gradient and spec.sparsity.changes_topology


def made_dense(spec: TrialSpec, shape: Blocks, device: str = "cpu") -> bool:
    """Whether products with this matrix need its weights put into dense memory, or cast, first."""
    if shape.active == shape.total:
        return spec.precision == "bf16_master"
    return not uses_tile_products(spec.sparsity, spec.precision, device)


def worker_share(spec: TrialSpec, placement: Placement) -> int:
    """Sequences of a batch that the busiest worker has."""
    return -(-spec.optimizer.batch_sequences // placement.workers)


def activations(spec: TrialSpec, recompute: Recompute, device: str = "cpu") -> tuple[int, int, int]:
    """Bytes a token: (kept by every layer, made again by one part, kept beside the layers).

    The halves of a layer: attention keeps the norm, its output, queries, keys, values, the result
    and a number a head; the MLP keeps the norm, its output and three tensors of its own width. With
    recomputation a half keeps its input instead, or a layer does.
    """
    model, compute = spec.model, 4 if spec.precision == "fp32" else 2
    norm = 4 + model.hidden * (8 if device.startswith("cpu") else compute)
    dropped = model.hidden if spec.optimizer.dropout else 0  # a byte a number
    attention = norm + 5 * compute * model.hidden + 4 * model.heads + dropped
    mlp = norm + compute * model.hidden + 3 * compute * model.intermediate + dropped
    stream = compute * model.hidden
    kept, again = {
        "none": (attention + mlp, 0), "mlp": (attention + stream, mlp), "layer": (stream, attention + mlp),
    }["none" if recompute == "auto" else recompute]  # fmt: skip
    return kept, again, norm + 8  # the last norm, and the number of the token


_PREDICTED: dict[tuple[Any, ...], MemoryBytes] = {}  # a row of every trial asks, and trials share a few shapes
MOST_PREDICTED = 4096


def predicted(spec: TrialSpec, placement: Placement) -> MemoryBytes:
    """Bytes of one worker; without a micro-batch its whole share of the batch is one pass."""
    key = spec.model, spec.sparsity, spec.optimizer, spec.precision, placement
    if key not in _PREDICTED:
        if len(_PREDICTED) >= MOST_PREDICTED:
            _PREDICTED.clear()
        _PREDICTED[key] = _predicted(spec, placement)
    return _PREDICTED[key]


def _predicted(spec: TrialSpec, placement: Placement) -> MemoryBytes:
    model, params, device = spec.model, parameters(spec.model, spec.sparsity), placement.device
    blocks = block_counts(model, spec.sparsity)
    products, singly = multiplied(blocks, device), multiplied(blocks, "cpu")
    dense = [b.rows * b.columns for b in blocks.values() if made_dense(spec, b, device)]
    gathered = [b.rows * b.columns for b in blocks.values() if b.active < b.total and gathers_gradients(spec)]
    value = 2 if spec.precision == "bf16" else 4
    compute = 4 if spec.precision == "fp32" else 2
    moment = 8 if spec.optimizer.moments == "fp32" else 4
    has_ages = spec.sparsity.changes_topology and spec.sparsity.uses_local_age
    tokens = (placement.micro_batch or worker_share(spec, placement)) * model.context
    kept, again, beside = activations(spec, placement.recompute, device)
    head = model.vocab_size * model.hidden
    chunk = logit_elements(tokens, model.vocab_size, model.hidden, device)
    return MemoryBytes(
        weights=value * params.active,
        gradients=value * params.active,
        moments=moment * params.active,
        average=4 * params.active if spec.optimizer.average else 0,
        ages=sum(b.active for b in blocks.values()) if has_ages else 0,
        layout=sum(4 * -(-b.total // 32) for b in blocks.values() if b.active < b.total)
        + sum(4 * -(-b.total // 1024) for b in {**singly, **products}.values() if b.active < b.total),
        dense_gradients=4 * sum(gathered),
        scratch=compute * max(b.rows * b.columns for b in products.values()) if needs_scratch(spec, device) else 0,
        resident=compute * sum(dense) if placement.resident else 0,
        activations=tokens * (model.layers * kept + beside),
        recomputed=tokens * again,
        logits=chunk * (compute + 8) + head * (4 if compute == 4 else 4 + compute) + tokens * model.hidden * compute,
    )


def fits(spec: TrialSpec, placement: Placement, device_bytes: int) -> bool:
    return predicted(spec, placement).total <= USABLE * placement.device_share * device_bytes


def fitted(spec: TrialSpec, placement: Placement, device_bytes: int) -> Placement:
    """The placement with its micro-batch and recomputation chosen, for a device of so many bytes;
    where they are not known (0), the whole share in one pass.

    The least recomputation at which enough tokens for fast products fit, and as many passes of the
    same size as that takes. Where nothing fits, the smallest: the device will say so.
    """
    ways: list[Recompute] = [placement.recompute]
    if placement.recompute == "auto":
        ways = ["none"] if placement.compile or not device_bytes else ["none", "mlp", "layer"]
    if not device_bytes:
        return placement.replace(recompute=ways[0])
    whole = worker_share(spec, placement)
    for way in ways:
        chosen = placement.replace(recompute=way)
        if placement.micro_batch:
            if fits(spec, chosen, device_bytes):
                break
            continue
        largest = _largest(spec, chosen, whole, device_bytes)
        passes = -(-whole // max(1, largest))
        chosen = chosen.replace(micro_batch=-(-whole // passes))
        if largest == whole or largest * spec.model.context >= ENOUGH_TOKENS:
            break
    return chosen


def _largest(spec: TrialSpec, placement: Placement, whole: int, device_bytes: int) -> int:
    """The most sequences a pass, up to `whole`, that fit; 0 if not even one does."""
    low, high = 0, whole
    while low < high:
        middle = (low + high + 1) // 2
        if fits(spec, placement.replace(micro_batch=middle), device_bytes):
            low = middle
        else:
            high = middle - 1
    return low
