"""The CPU's peak: the rate of its own multiply-add instructions on operands in registers, by a small C++ program."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("peak.cpp")


@functools.cache
def peak(precision: str, threads: int) -> float | None:
    """Operations per second, two for each multiply-add, of so many threads at once; measured once per process.

    Args:
        precision: "float32", or "bfloat16" for products of bfloat16 pairs.
    Returns:
        None where the CPU has no such instruction, or there is no C++ compiler that knows this CPU.
    """
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "peak")
        options = ["-std=c++17", "-O2", "-march=native", "-pthread", "-o", program]
        if subprocess.run([compiler, *options, str(_SOURCE)], capture_output=True, check=False).returncode != 0:
            return None
        arguments = [str(threads), str(int(precision == "bfloat16"))]
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None
