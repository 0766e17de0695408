"""`python -m analysis`: see `analysis.cli`. How many threads numpy has is said before it loads."""

import os
import sys

from analysis.beside import ONE_THREAD


def main() -> int:
    for name, threads in ONE_THREAD.items():
        os.environ.setdefault(name, threads)
    from analysis.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
