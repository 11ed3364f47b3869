"""`python -m benchmarks`, what `make bench` runs: the photographs. Importing torch takes seconds: a line comes
first, and Ctrl-C during the import ends without a traceback, like later."""

import sys

print("importing torch: a few seconds", flush=True)
try:
    from . import photos
except KeyboardInterrupt:
    print("\ninterrupted: nothing was measured yet", flush=True)
    sys.exit(130)
sys.exit(photos.main())
