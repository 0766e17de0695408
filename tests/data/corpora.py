"""Small corpora made from nothing, for the tests of raysparse.data."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path


def write_jsonl(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def prose(documents: int, seed: int = 0) -> list[str]:
    """Distinct documents of 1 to 40 lines."""
    draw = random.Random(seed)
    words = ["sparse", "dense", "token", "epoch", "layer", "mask", "grow", "prune", "age", "näive", "数据", "loss"]

    def lines(number: int) -> list[str]:
        return [" ".join(draw.choices(words, k=8)) for _ in range(draw.randint(1, 40))] + [f"number {number}"]

    return ["\n".join(lines(number)) for number in range(documents)]
