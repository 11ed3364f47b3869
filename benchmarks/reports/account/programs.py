"""Other programs that a part starts: they run in its group, and end with it."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from pathlib import Path

from ..machine import ROOT
from . import children


def begin(command: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a command in the repository root, its output in a log."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            preexec_fn=functools.partial(children.ends_with_its_parent, os.getpid()),
        )


def finish(process: subprocess.Popen[bytes], ends: float) -> int | None:
    """Its exit code; None if it ran until `ends` (on :func:`time.monotonic`'s clock), and had to be ended."""
    try:
        return process.wait(timeout=max(0.1, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        below = children.descendants(process.pid)
        process.kill()
        children.kill(*below)  # what it profiled, for one
        process.wait()
        return None
