"""A corpus that no one else writes to, unlike the repository's own files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sweep.plans import write_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture
def machines() -> Iterator[object]:
    """A cluster of a head and two nodes of one CPU, which may go and come."""
    from tests.sweep.machines import Machines

    made = Machines(2)
    yield made
    made.close()
