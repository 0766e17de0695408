"""`python -m raysparse` is the command line of `raysparse.cli`."""

import sys

from raysparse.cli import main

sys.exit(main())
