"""A busy process beside the measured one, as on a machine that is shared."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

# Ends by itself if the process that started it is gone. Pinned to no CPU: the system moves it as it moves any other.
_BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """While the block runs, one process computes without a pause. It is ended with the block."""
    process = subprocess.Popen([sys.executable, "-S", "-c", _BUSY], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
