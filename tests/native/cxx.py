"""Compiles and runs this folder's C++ checks: kernels without a framework, against a double precision reference."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on PATH")


def cpu_has(*flags: str) -> bool:
    """Whether this machine's CPU has all these features, as Linux names them."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.startswith("flags")]
    return bool(lines) and set(flags) <= set(lines[0].split())


AVX2 = ("-mavx2", "-mfma", "-mf16c")
# Both sanitizers, less the checks of every single pointer, which double the time to compile.
SANITIZED = (
    *("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "-fno-sanitize=null,alignment,object-size",
)
needs_avx2 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not cpu_has("avx2", "fma", "f16c"), reason="no AVX2 here"
)

# A check of a template over vector and rows of a register tile, as every instruction set instantiates it.
each_width = pytest.mark.parametrize(
    ("vector", "rows", "flags"),
    [
        pytest.param("Vec4", 6, ("-O1",), id="scalar"),
        pytest.param("Vec8", 6, ("-O1", *AVX2), id="avx2", marks=needs_avx2),
        pytest.param(
            "Vec16",
            14,
            (*AVX2, "-O0", "-include", str(HERE / "avx512_emulation.h")),
            id="avx512-emulated",
            marks=needs_avx2,
        ),
    ],
)


def run_check(source: str, folder: Path, *flags: str) -> str:
    """Compiles `source` of this folder, runs it, and returns what it printed; fails the test if it does."""
    program = folder / "check"
    includes = [f"-I{path}" for path in (ROOT / "csrc", HERE)]
    command = [COMPILER, "-std=c++17", "-O1", "-Wno-unknown-pragmas", *includes, *flags, str(HERE / source), "-o"]
    built = subprocess.run([*command, str(program)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"exit code {ran.returncode} (negative: killed by that signal)\n{ran.stdout}"
    return ran.stdout
