"""python -m tools.native ahead|inplace: compiles before torch is installed what does not need it; or all, in place."""

from __future__ import annotations

import sys
from pathlib import Path

from . import compiling, finding, planning

ROOT = Path(__file__).resolve().parents[2]


def ahead() -> None:
    """The CPU kernels as objects: the build takes them up."""
    compiling.compile_kernels(ROOT)


def inplace() -> None:
    """The libraries, beside the package's Python files; setup.py then finds nothing left to compile."""
    torch = finding.torch()
    plan = planning.make(torch)
    for note in plan.notes:
        print(f"   {note}", flush=True)
    outputs = ["_C_cpu.so"] * plan.cpu + ["_C_cuda.so"] * plan.cuda
    if outputs and torch is not None:
        compiling.compile_libraries(ROOT, ROOT / "src" / "convnextv2_fast", outputs, torch, plan.archs, "")


if __name__ == "__main__":
    {"ahead": ahead, "inplace": inplace}[sys.argv[1]]()
