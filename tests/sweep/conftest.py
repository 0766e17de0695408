"""A corpus that no one else writes to, unlike the repository's own files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.sweep.plans import write_corpus

if TYPE_CHECKING:
    from tests.sweep.machines import Machines


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Machines]:
    from tests.sweep.machines import Machines

    made = Machines(2)
    yield made
    made.close()


@pytest.fixture
def machines(cluster: Machines) -> Machines:
    """A cluster of a head and two nodes of one CPU, which may go and come."""
    cluster.level(2)
    return cluster
