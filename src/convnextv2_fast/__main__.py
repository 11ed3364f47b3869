"""`python -m convnextv2_fast`, and the script `convnextv2-fast`: see :mod:`convnextv2_fast.cli`."""

import sys

from . import _start
from .cli import main

_start.finish()

if __name__ == "__main__":
    sys.exit(main())
