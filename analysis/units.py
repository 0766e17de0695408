"""Numbers as people write them. Used by the report and the pictures; imports nothing."""


def count(value: float) -> str:
    """1.3e9 as `1.3B`: parameters, tokens."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
