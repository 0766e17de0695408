"""Which commit of the code runs: rows say it, and the nodes of a cluster are compared by it. A file
of its own, so that asking loads nothing else.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path


@functools.cache
def git_commit() -> str:
    """The commit of the checkout that this code runs from; empty when it is installed or git is
    absent.
    """
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except OSError:
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
