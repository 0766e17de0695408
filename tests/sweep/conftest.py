"""A corpus that no one else writes to, unlike the repository's own files."""

from __future__ import annotations

import pytest

from tests.sweep.plans import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")
