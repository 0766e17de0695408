"""Numbers as people write them, for every table, plan, picture and report. Imports nothing."""


def count(value: float) -> str:
    """Weights, tokens: 1536 -> "1.54k", 1.3e9 -> "1.3B"."""
    return _scaled(value, ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")))


def si(value: float, unit: str) -> str:
    """With the prefixes of physics, for bytes and rates: 1.5e9, "B" -> "1.5GB"."""
    return _scaled(value, ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))) + unit


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for size, letter in steps:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def amount(value: float) -> str:
    """FLOPs: 1.72e13 -> "1.72e13"."""
    return f"{value:.2e}".replace("e+", "e")


def duration(seconds: float) -> str:
    """3725 -> "1h 02m"; 65 -> "1m 05s"; 9 -> "9s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {rest:02}s" if minutes else f"{rest}s"


def interval_text(low: float, high: float) -> str:
    """`[1.2, 3.4]`, with `open` where a limit is infinite or unknown."""
    ends = [f"{value:.5g}" if abs(value) < float("inf") else "open" for value in (low, high)]
    return f"[{ends[0]}, {ends[1]}]"
