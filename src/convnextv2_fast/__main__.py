"""`python -m convnextv2_fast`: see :mod:`convnextv2_fast.cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
