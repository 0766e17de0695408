"""`python -m raysparse` is the command line of `raysparse.console.cli`."""

import sys

from raysparse.console.cli import main

sys.exit(main())
