"""Numbers as people write them. Used by the report and the pictures; imports nothing."""


def count(value: float) -> str:
    """1.3e9 as `1.3B`: parameters, tokens."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def interval_text(low: float, high: float) -> str:
    """`[1.2, 3.4]`, with `open` where a limit is infinite or unknown."""
    ends = [f"{value:.5g}" if abs(value) < float("inf") else "open" for value in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"
