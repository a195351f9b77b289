"""`python -m kerneldna_ops` is the command `kerneldna`."""

import sys

from .cli import main

sys.exit(main())
