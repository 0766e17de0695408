"""The corpus of the tests of this folder."""

from __future__ import annotations

import pytest

from tests.sweep.plans import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")
