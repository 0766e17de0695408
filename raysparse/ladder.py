"""Named model sizes: the two papers' ladders (REFERENCE section 2) and a laptop ladder of ours.

A name is `family-size` ("dc-60m", "smet-350m", "laptop-s"). What a size looks like is kept apart
from how it is trained, so the vocabulary and the context are arguments. `dense_lr` gives the
learning rate that the SMET paper used for a size, where it gave one.
"""

from __future__ import annotations

from raysparse.spec import ModelSpec

# name: hidden, intermediate, layers, heads
SHAPES: dict[str, tuple[int, int, int, int]] = {
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


def dense_lr(name: str, default: float = 1e-3) -> float:
    """The dense peak learning rate of a size; `default` for sizes whose authors gave none."""
    return DENSE_LR.get(full_name(name), default)
