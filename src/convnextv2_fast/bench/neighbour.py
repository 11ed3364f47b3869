"""A busy process beside the measured one, as on a machine that is shared."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# Ends by itself if the process that started it is gone, perhaps before this one has begun: so its number comes as an
# argument. Pinned to no CPU: the system moves it as it moves any other.
_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """While the block runs, one process computes without a pause. It is ended with the block."""
    command = [sys.executable, "-S", "-c", _BUSY, str(os.getpid())]
    # No pipe of this process stays open on its account.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
