"""Runs each kernel once, for a profiler that reads the hardware's counters.

Between cudaProfilerStart and Stop stand the calls of `CASES`, each behind a marker: a kernel of torch that only waits,
`torch.cuda._sleep`, whose name no other kernel has. The k-th marker begins the k-th case.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...suite import problems
from ...suite.cases import OpCase, Setting
from ...suite.problems import Shape

MARKER = "spin_kernel"
BATCH = 128


@dataclass(frozen=True)
class KernelCase:
    op: str
    backend: str
    shape: Shape
    backward: bool

    def case(self, device: str) -> OpCase:
        cpu = device == "cpu"
        case = OpCase(self.op, self.shape, Setting(device, "float32" if cpu else "bfloat16", True), self.backward)
        case.sets = 1
        return case


def cases(device: str) -> list[KernelCase]:
    """What is run, the most telling first."""
    if device == "cpu":
        return [KernelCase(op, "cpu", Shape(1, 7, 7, 8), True) for op in ("dwconv_layer_norm", "mlp_grn")]
    found = []
    for side, c in ((56, 96), (14, 384)):
        shape = Shape(BATCH, side, side, c)
        found += [KernelCase(op, "cuda", shape, True) for op in ("dwconv_layer_norm", "mlp_grn")]
    for side, c in ((56, 96), (14, 384)):
        shape = Shape(BATCH, side, side, c)
        found += [KernelCase("mlp_grn", "triton", shape, False), KernelCase("sparse_dwconv", "cuda", shape, True)]
        found += [KernelCase("patch_conv", "cuda", Shape(BATCH, side, side, c, 2 * c, 2), False)]
    return [*found, KernelCase("grn", "cuda", Shape(BATCH, 56, 56, 96), False)]


def run_all(device: str, ends: float, mark: Callable[[], None], say: Callable[[str], None]) -> None:
    """Warms and then runs every case, until time is up; says each that ran."""
    cuda = device == "cuda"
    for each in cases(device):
        if time.monotonic() > ends:
            say("time was up")
            return
        case = each.case(device)
        run = case.candidate(problems.public(each.op), backend=each.backend).run
        run(0)  # compiles, and fills the caches of cuBLAS
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaProfilerStart()
        mark()
        run(0)
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaProfilerStop()
        say(f"ran {case.what} {each.backend}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--ends", type=float, default=math.inf, help="when to stop, on time.monotonic's clock")
    options = parser.parse_args(arguments)

    def mark() -> None:
        if options.device == "cuda":
            torch.cuda._sleep(1)

    run_all(options.device, options.ends, mark, lambda text: print(text, flush=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
