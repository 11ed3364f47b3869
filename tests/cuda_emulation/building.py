"""Builds the CUDA library for the CPU: kernels, launchers and operators as plain C++ over `cuda_emulation.h`.

python -m tests.cuda_emulation.building [plain | sanitized]
"""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from tests.compile_cache import ROOT, compile_once, run
from tests.native.cxx import COMPILER

HERE = Path(__file__).resolve().parent
FLAVOURS = {
    "plain": ("-O1",),
    "sanitized": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
}
INCLUDES = (HERE, ROOT / "csrc", ROOT / "csrc/torch")
TORCH = Path(torch.__file__).parent
FLAGS = (
    *("-std=c++17", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),
    *("-DCNV2_CUDA_EMULATION", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"),
    *(f"-I{path}" for path in INCLUDES),
    f"-isystem{TORCH / 'include'}",
)


def _compile(source: Path, folder: Path, flags: tuple[str, ...]) -> Path:
    assert COMPILER is not None
    made = folder / f"{source.parent.name}.{source.name}.o"
    return compile_once([COMPILER, *flags, "-x", "c++", "-c", str(source)], made, torch.__version__)


@contextmanager
def _folder(flavour: str) -> Iterator[Path]:
    """Where a flavour's objects are; one process at a time builds there."""
    folder = ROOT / "build" / "cuda_emulation" / flavour
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def build(flavour: str = "plain") -> Path:
    """The library; objects whose sources have not changed are kept between calls."""
    flags = (*FLAGS, *FLAVOURS[flavour])
    sources = [HERE / "device.cpp", *ROOT.glob("csrc/cuda/*/*.cu"), *ROOT.glob("csrc/torch/*_cuda.cpp")]
    with _folder(flavour) as folder:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda source: _compile(source, folder, flags), sorted(sources)))
        library = folder / "_C_emulated.so"
        assert COMPILER is not None
        made = ("-shared", *map(str, objects), str(TORCH / "lib/libtorch_cpu.so"), "-o", str(library))
        run([COMPILER, *FLAVOURS[flavour], *made])
    return library


def build_check(flavour: str = "plain", *flags: str) -> Path:
    """The program `emulator_check`, which needs no torch."""
    with _folder(f"{flavour}_check{''.join(flags)}") as folder:
        made = _compile(HERE / "emulator_check.cpp", folder, (*FLAGS, *FLAVOURS[flavour], *flags))
        program = folder / "check"
        assert COMPILER is not None
        run([COMPILER, *FLAVOURS[flavour], str(made), "-o", str(program)])
    return program


if __name__ == "__main__":
    print(build(*sys.argv[1:]))
