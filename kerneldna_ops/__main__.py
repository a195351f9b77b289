"""`python -m kerneldna_ops` is the command `kerneldna`."""

import sys

from .commands.cli import main

sys.exit(main())
