"""Runs the folder `emulated` in processes of their own: every CUDA kernel, launcher and operator, on the CPU."""

import importlib.util
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.cuda_emulation.building import build
from tests.native.cxx import COMPILER, needs_compiler
from tests.pairs import pairwise

ROOT = Path(__file__).resolve().parents[2]
EMULATED = "tests/cuda_emulation/emulated"
# torch.compile's tests run the same kernels as the others
FEWER = ("-k", "not compile")


def run(*arguments: str, **environment: str) -> int:
    """How many tests of the folder passed; none may fail."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", EMULATED, *arguments]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "logical"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout[-2000:]
    return int(passed[1])


@needs_compiler
def test_every_kernel(request):
    chosen = ["--pairs", "-m", "not thorough", *FEWER] if request.config.getoption("--pairs") else []
    assert run(*chosen, CUDA_EMULATION=str(build("plain"))) > 100


@needs_compiler
@pytest.mark.parametrize("order", ["reverse", "random:1"])
def test_other_orders(order):
    """Warps and lanes in another order: a barrier that is missing gives other results in one of them."""
    assert run(*FEWER, "--pairs", CUDA_EMULATION=str(build("plain")), CUDA_EMULATION_ORDER=order) > 50


def preloaded() -> dict[str, str]:
    """Environment in which an interpreter that was not built for it runs a library with the sanitizers."""
    assert COMPILER is not None
    found = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):  # the last: asan looks for its __cxa_throw at the start
        asked = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        if not os.path.isabs(path := asked.stdout.strip()):
            pytest.skip(f"the compiler has no {name}")
        found.append(path)
    return {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16:malloc_context_size=6",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }


@needs_compiler
def test_sanitized():
    """Accesses outside tensors and shared memory, misaligned vectors, overflowing integers."""
    environment = preloaded()
    library = str(build("sanitized"))
    assert run(*FEWER, "--pairs", "-s", CUDA_EMULATION=library, **environment) > 50


def test_pairs():
    cases = [dict(zip("abc", values, strict=True)) for values in product("xyz", "12345", "uvw")]
    kept = [cases[i] for i in pairwise(cases)]
    assert len(kept) < 20 < len(cases)
    for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
        assert {(case[one], case[other]) for case in kept} == {(case[one], case[other]) for case in cases}
    assert pairwise([{"a": "x"}, {"a": "y"}, {"a": "x"}]) == [0, 1]
