"""Runs the folder `emulated` in processes of their own: every CUDA kernel, launcher and operator, on the CPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.cuda_emulation.building import build
from tests.native.cxx import needs_compiler

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *arguments]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "logical"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    return done.stdout


@needs_compiler
def test_every_kernel_emulated():
    run("tests/cuda_emulation/emulated", CUDA_EMULATION=str(build("plain")))
