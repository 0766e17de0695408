"""A corpus of documents of many lengths, and one sparse model trained on it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from raysparse.run_folder import RunFolder
from raysparse.spec import TrialSpec
from tests.conftest import small_trial
from tests.release.models import trained

WORDS = ["the", "tree", "of", "a", "small", "house", "holds", "water", "light", "for", "every", "ä", "木", "{}", "()"]


def write_corpus(folder: Path, documents: int = 100, seed: int = 0) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = random.Random(seed)
    for n in range(documents):
        words = [numbers.choice(WORDS) for _ in range(numbers.randint(20, 300))]
        lines = [" ".join(words[i : i + 9]) for i in range(0, len(words), 9)]
        (folder / f"{n:03d}.txt").write_text("\n".join(lines) + "\n")
    return str(folder)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="session")
def spec(corpus: str) -> TrialSpec:
    return small_trial("smet", data={"corpus": corpus}, optimizer={"average": 0.2})


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, spec: TrialSpec) -> RunFolder:
    """A run folder with one trained trial, which keeps the average of its weights too."""
    return trained(tmp_path_factory.mktemp("runs"), "one", spec)
