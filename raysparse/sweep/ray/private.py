"""The Ray that a sweep starts for itself: whether it lives, and what it may print of its end. What
it may leave behind is the business of `leftovers`.
"""

from __future__ import annotations

from typing import Any

from ray._private import worker

VITAL = ("raylet", "gcs_server")  # and not the dashboard, or what collects logs
LAST_WORDS = "Raylet is terminated"


def ended() -> list[str]:
    """Which of its two processes that it cannot live without have ended."""
    node = worker._global_node
    return [] if node is None else [str(name) for name, _ in node.dead_processes() if name in VITAL]


def without_last_words() -> None:
    """Ray prints twenty lines of its raylet's log when that dies; the sweep says it in one."""
    whole = worker.print_to_stdstream
    if whole.__module__ == __name__:
        return

    def shorter(data: dict[str, Any], *rest: Any, **more: Any) -> None:
        if not str(data["lines"][0]).startswith(LAST_WORDS):
            whole(data, *rest, **more)

    worker.print_to_stdstream = shorter
