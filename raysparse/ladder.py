"""Named model sizes: the two papers' ladders (docs/method.md) and a laptop ladder of ours.

A name is `family-size` ("dc-60m", "smet-350m", "laptop-s"). What a size looks like is kept apart
from how it is trained, so the vocabulary and the context are arguments. `dense_lr` gives the
learning rate that the SMET paper used for a size, where it gave one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from raysparse.spec import ModelSpec

Shape = tuple[int, int, int, int]  # hidden, intermediate, layers, heads

SHAPES: dict[str, Shape] = {
    # Ours, for two CPU cores and a byte vocabulary: 25k to 0.7M weights in the projections, times
    # 2-3.5 a step.
    "laptop-xs": (32, 96, 2, 2),
    "laptop-s": (48, 128, 3, 2),
    "laptop-m": (72, 192, 3, 2),
    "laptop-l": (120, 320, 4, 4),
    # "When Data Is Scarce" (arXiv 2606.01155)
    "dc-20m": (256, 688, 4, 4),
    "dc-40m": (512, 1024, 8, 8),
    "dc-60m": (640, 1920, 11, 10),
    "dc-120m": (768, 2560, 15, 12),
    "dc-240m": (896, 3584, 18, 14),
    "dc-480m": (1280, 4224, 21, 20),
    "dc-960m": (1792, 5120, 24, 28),
    "dc-1b92": (2304, 6144, 30, 36),
    "dc-3b84": (3072, 8192, 34, 32),
    # "Memory-Efficient LLM Training with Dynamic Sparsity" (arXiv 2606.00888)
    "smet-60m": (512, 1376, 8, 8),
    "smet-130m": (768, 2048, 12, 12),
    "smet-240m": (1024, 2560, 17, 16),
    "smet-350m": (1024, 2736, 24, 16),
    "smet-1b": (2048, 5461, 24, 32),
    "smet-3b": (2560, 6848, 32, 32),
    "smet-7b": (4096, 11008, 32, 32),
}

# Peak learning rates of the dense runs in the SMET paper's appendix; laptop rates from the sweep in
# docs/experiments.md.
DENSE_LR: dict[str, float] = {
    "laptop-xs": 4e-3,
    "laptop-s": 3e-3,
    "laptop-m": 2.5e-3,
    "laptop-l": 2e-3,
    "smet-60m": 2e-3,
    "smet-130m": 1e-3,
    "smet-240m": 1e-3,
    "smet-350m": 1e-3,
    "smet-1b": 5e-4,
}


RATE_AT_WIDTH_1 = 0.0226  # least squares in logarithms through DENSE_LR, power -1/2


def full_name(name: str) -> str:
    """A name of the ladder, or the only one that ends so ("1b" for smet-1b). Raises ValueError with
    the names to choose from.
    """
    ending = [known for known in SHAPES if known == name or known.endswith(f"-{name}")]
    if len(ending) > 1:
        raise ValueError(f"size {name!r} could be {' or '.join(ending)}; give the whole name")
    if not ending:
        raise ValueError(f"there is no size {name!r} in the ladder; known sizes: {', '.join(SHAPES)}")
    return ending[0]


def model(name: str, *, vocab_size: int = 32_000, context: int = 256) -> ModelSpec:
    """The shape of a named size. Raises ValueError with the known names."""
    name = full_name(name)
    hidden, intermediate, layers, heads = SHAPES[name]
    return ModelSpec(
        hidden=hidden, intermediate=intermediate, layers=layers, heads=heads,
        vocab_size=vocab_size, context=context, name=name,
    )  # fmt: skip


def has_own_rate(model: ModelSpec) -> bool:
    """Whether somebody published or measured a learning rate for just this shape."""
    shape = (model.hidden, model.intermediate, model.layers, model.heads)
    return model.name in DENSE_LR and SHAPES[model.name] == shape


def dense_lr(model: ModelSpec) -> float:
    """Dense peak learning rate of a shape: its own where it has one, else 0.0226 / sqrt(hidden).

    The formula goes through the nine rates of `DENSE_LR` (widths 32 to 2048, each within a factor
    of about 2, smet-60m the farthest). It knows nothing of depth, batch and tokens: tune it.
    """
    return DENSE_LR[model.name] if has_own_rate(model) else RATE_AT_WIDTH_1 * model.hidden**-0.5


def shape_near(
    active: float, density: float, *, vocab_size: int = 32_000, context: int = 256, multiple: int = 8
) -> ModelSpec:
    """A model with about `active` active weights outside the embedding at a density.

    Depth, heads and the ratio of widths follow the named size of the nearest width; widths are
    multiples of `multiple`, from 256 on of 8 times that. Of those the one nearest to `active` is
    taken, a depth unlike its neighbour's counting against it. The name says what it is:
    "h88-i232-l3-a2". Raises ValueError when none is near.
    """
    found = min(
        _shapes_around(active, density, vocab_size, multiple),
        key=lambda s: abs(math.log(_active(s, density, vocab_size) / active)) + 0.25 * _depth_off(s),
    )
    got = _active(found, density, vocab_size)
    if not 0.5 < got / active < 2.0:
        raise ValueError(
            f"no model has {active:.3g} active weights at density {density:g} and a vocabulary of {vocab_size}: "
            f"the nearest has {got:.3g}; ask for more weights or a smaller vocabulary"
        )
    hidden, intermediate, layers, heads = found
    named = next((name for name, shape in SHAPES.items() if shape == found), "")
    return ModelSpec(
        hidden=hidden, intermediate=intermediate, layers=layers, heads=heads, vocab_size=vocab_size, context=context,
        name=named or f"h{hidden}-i{intermediate}-l{layers}-a{heads}",
    )  # fmt: skip


def _depth_off(shape: Shape) -> float:
    """How far the depth is from that of the named size of the nearest width, in logarithms."""
    return abs(math.log(_neighbour(shape[0])[2] / shape[2]))


def _neighbour(hidden: int) -> Shape:
    """The named size of the nearest width."""
    return min(SHAPES.values(), key=lambda s: abs(math.log(s[0] / hidden)))


def _active(shape: Shape, density: float, vocab_size: int) -> float:
    hidden, intermediate, layers, _ = shape
    return (
        hidden * vocab_size + (2 * layers + 1) * hidden + density * layers * (4 * hidden**2 + 3 * hidden * intermediate)
    )


def _shapes_around(active: float, density: float, vocab_size: int, multiple: int) -> Iterator[Shape]:
    """Candidates: widths of about the right size, each with the depths near its neighbour's."""
    for layers in sorted({s[2] for s in SHAPES.values()}):
        for hidden in [*range(multiple, 256, multiple), *range(256, 8193, 8 * multiple)]:
            near = _neighbour(hidden)
            if abs(math.log(near[2] / layers)) > 0.5:
                continue
            size = _active((hidden, near[1] * hidden // near[0], layers, 1), density, vocab_size)
            if not 0.4 < size / active < 2.5:
                continue
            heads = _heads(hidden, near[0] / near[3])
            exact = hidden * near[1] / near[0]
            yield hidden, max(multiple, round(exact / multiple) * multiple), layers, heads


def _heads(hidden: int, size: float) -> int:
    """The divisor of `hidden` whose heads are even and nearest to `size`."""
    able = [a for a in range(1, hidden // 2 + 1) if hidden % a == 0 and (hidden // a) % 2 == 0]
    return min(able, key=lambda a: abs(math.log(hidden / a / size)))
