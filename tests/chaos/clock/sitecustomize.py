"""A clock that can be turned: `time.time` of every Python process that starts with this folder on
its path, by the seconds that a file holds. The machine's own clock is not ours to turn.
"""

import contextlib
import os
import time

real, file, found = time.time, os.environ.get("RAYSPARSE_STORM_CLOCK", ""), {"read": 0.0, "by": 0.0}


def turned() -> float:
    if time.monotonic() - found["read"] > 0.1:
        found["read"] = time.monotonic()
        with contextlib.suppress(OSError, ValueError), open(file) as text:
            found["by"] = float(text.read())
    return real() + found["by"]


if file:
    time.time = turned
