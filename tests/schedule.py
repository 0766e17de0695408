"""Which tests run beside which, when two processes run them (`make test`).

The tests of a file stay in one process, since they share what is costly to make. Files that start a
Ray (`RAY`) are one unit, so that there is one Ray at a time: it takes what a small machine has, and
other tests fit beside it. Not by pytest-xdist's own groups: those rename tests, and pytest 9.2 lets
nobody do so.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.conftest import RAY


def unit(nodeid: str) -> str:
    """The unit of a test: its file, or "ray"."""
    file = nodeid.partition("::")[0]
    return "ray" if file in RAY else file


class ByFile(LoadScopeScheduling):
    """Units as they are collected, to whichever process has nothing left to do."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
