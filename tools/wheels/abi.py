"""One wheel on several versions of torch, each in an environment of its own, without a GPU."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from . import trial
from .process import Failure, run

NEWEST = "newest"
GB = 10**9
FREE = 9 * GB  # a CUDA build of torch takes 5 to 7 GB; pip unpacks beside it
REQUIREMENTS = ("numpy", "pytest")


def version_of(python: Path) -> str:
    """The torch of that environment; "" if it has none or is none."""
    if not python.exists():
        return ""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return run(python, "-c", code, cwd=python.parent, check=False).stdout.strip()


def environment(torch: str, work: Path) -> Path:
    """The interpreter of an environment with this torch, made if it is not there. "newest" follows the index."""
    folder = work / f"{torch}-py{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    found = version_of(python)
    if torch != NEWEST and found.split("+")[0] == torch:
        return python
    if not found:
        work.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(work).free
        if free < FREE:
            raise Failure(f"torch {torch}: {free / GB:.0f} GB free in {work}, an environment needs {FREE / GB:.0f}")
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder, cwd=work)
    wanted = "torch" if torch == NEWEST else f"torch=={torch}"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir", "--upgrade")
    run(*pip, wanted, *REQUIREMENTS, cwd=work)
    return python


def check_abi(wheel: Path, versions: list[str], work: Path, keep: bool = True) -> list[str]:
    """Prints a line per version of torch; returns the failures.

    Args:
        keep: leave the environments for the next time.
    """
    failures = []
    for torch in versions:
        start = time.monotonic()
        try:
            python = environment(torch, work)
            made = time.monotonic() - start
            trial.install(wheel, python)
            said = trial.try_wheel(wheel, python, work / "tests")
            print(f"ok      {said}  [{made:.0f} + {time.monotonic() - start - made:.0f} s]", flush=True)
        except Failure as failure:
            failures.append(f"torch {torch}: {wheel.name}: {failure}")
            print(f"FAILED  torch {torch}", flush=True)
        if not keep:
            shutil.rmtree(work / f"{torch}-py{sys.version_info.major}.{sys.version_info.minor}", ignore_errors=True)
    return failures


def choose(folder: Path) -> Path:
    """The wheel of the highest CUDA release in `folder`: the libraries in it are a superset of the other wheels'."""
    found = sorted(folder.glob("convnextv2_fast-*+cu*.whl"), key=os.path.getmtime) or sorted(
        folder.glob("convnextv2_fast-*+cpu-*.whl"), key=os.path.getmtime
    )
    if not found:
        raise Failure(f"no wheel with a library in {folder}: make wheels, or name one with WHEEL=")
    return found[-1]
