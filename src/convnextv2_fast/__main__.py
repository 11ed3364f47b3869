"""`python -m convnextv2_fast`: see :mod:`convnextv2_fast.cli`.

Importing takes seconds; Ctrl-C meanwhile ends without a traceback, as later."""

import sys

try:
    from .cli import main
except KeyboardInterrupt:
    print("python -m convnextv2_fast: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
