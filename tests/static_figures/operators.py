"""The library's CUDA operators without their kernels: everything that csrc/torch and the launchers of csrc/cuda do, on
CPU tensors, and a count of the kernels that they would start. The device they see is the emulator's, an H100."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.autograd.profiler import profile

from tests.compile_cache import ROOT, compile_once, run
from tests.cuda_emulation.building import FLAGS, TORCH
from tests.native.cxx import COMPILER

HERE = Path(__file__).resolve().parent / "without_kernels"
# What happens in an operator counts, what would happen in a kernel does not.
OPTIMISATION = {".cpp": "-O2", ".cu": "-O1"}


def build() -> Path:
    """The library; objects whose sources have not changed are kept between calls."""
    assert COMPILER is not None
    folder = ROOT / "build" / "static_figures"
    folder.mkdir(parents=True, exist_ok=True)
    sources = [HERE / "launches.cpp", *ROOT.glob("csrc/cuda/*/*.cu"), *ROOT.glob("csrc/torch/*_cuda.cpp")]

    def compiled(source: Path) -> str:
        command = [COMPILER, f"-I{HERE}", *FLAGS, OPTIMISATION[source.suffix], "-x", "c++", "-c", str(source)]
        return str(compile_once(command, folder / f"{source.parent.name}.{source.name}.o", torch.__version__))

    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of other processes that run tests
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compiled, sorted(sources)))
        linked = folder / "linked.so"
        run([COMPILER, "-shared", *objects, str(TORCH / "lib/libtorch_cpu.so"), "-o", str(linked)])
        return linked.replace(folder / "_C_without_kernels.so")  # whole at any moment: others may be loading it


class Operators:
    """Loads the library: from now on, in this process, the CUDA operators are those of CPU tensors."""

    def __init__(self) -> None:
        library = str(build())
        torch.ops.load_library(library)
        self._launches = ctypes.CDLL(library).static_figures_launches
        self._launches.restype = ctypes.c_int64
        composites = torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd")
        self._composites = {name.partition(".")[0] for name in composites}

    def during(self, call: Callable[[], object]) -> tuple[int, list[str]]:
        """Kernels that the library would have started within the call of an operator, and the operators that this
        called, `mm` for one; of those made of others, the others."""
        before = self._launches()
        with profile() as recorded:
            call()
        waiting = [e for event in recorded.function_events if event.cpu_parent is None for e in event.cpu_children]
        called = []
        while waiting:
            event = waiting.pop()
            if event.name.startswith("aten::") and event.name not in self._composites:
                called.append(event.name.removeprefix("aten::"))
            else:
                waiting += event.cpu_children
        return self._launches() - before, called
