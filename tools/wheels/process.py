"""Runs a command, and fails with the end of what it printed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failure(Exception):
    """What the user is told, in one line first, instead of a traceback."""


def run(
    *command: str | Path, cwd: Path, check: bool = True, drop: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `command` with the variables of `environment` set and those named in `drop` unset.

    Raises:
        Failure: it returned an exit code other than 0, and `check` is set.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in drop}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        shown = " ".join("<script>" if "\n" in str(part) else str(part) for part in command)
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was printed").splitlines()[-1]
        raise Failure(f"exit code {done.returncode}: {shown}: {last}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done
