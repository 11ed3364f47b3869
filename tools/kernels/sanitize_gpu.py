"""What compute-sanitizer watches: every native kernel, forward and backward, once, on tiny and awkward shapes.

compute-sanitizer --tool memcheck python -m tools.kernels.sanitize_gpu
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from benchmarks.suite import checks, problems
from benchmarks.suite.cases import OpCase, Setting
from benchmarks.suite.problems import Shape
from convnextv2_fast import dispatch
from convnextv2_fast.bench import inside

# odd sides, channels off every vector width, several samples; FCMAE's planes need sides that are multiples of 7
SHAPES = {"patch_conv": [Shape(2, 9, 8, 3, 8, 4), Shape(1, 5, 7, 40, 24, 2)], "sparse_dwconv": [Shape(2, 14, 14, 40)]}
BACKENDS = ("cuda", "cpu", "triton")  # Triton last: it compiles
USUAL = [Shape(1, 1, 1, 8), Shape(2, 7, 7, 40), Shape(3, 13, 5, 48), Shape(1, 9, 16, 96)]


def run_all(device: str, precisions: Sequence[str], backends: Sequence[str] = BACKENDS) -> int:
    """Runs every kernel that can run on the device, checking its results; how many runs there were."""
    ran = 0
    for backend in backends:
        for op in dispatch.registered_ops():
            implementation = next((i for i in dispatch.implementations(op) if i.backend == backend), None)
            if implementation is None:
                continue
            tensor_cores = backend == "cuda" and op in ("dwconv_layer_norm", "sparse_dwconv")
            mma = ["bfloat16 mma"] if tensor_cores and "bfloat16" in precisions else []
            for precision in (*precisions, *mma):
                inside.use_dwconv_kernel("mma" if precision.endswith("mma") else "fma")
                precision = precision.split()[0]
                for shape in SHAPES.get(op, USUAL):
                    setting = Setting(device, precision, smoke=True)
                    case = OpCase(op, shape, setting, backward=True)
                    problem = case.problems[0]
                    spec = dispatch.Spec.of(op, *problem.tensors, layout=problem.layout)._replace(needs_grad=True)
                    if implementation.reasons(spec):
                        continue
                    ours = case.candidate(problems.public(op), backend=implementation.backend)
                    found = checks.difference(ours.outputs(), case.expected)
                    checks.require(found, setting.dtype, False, f"{case.name}, {implementation.backend}")
                    ran += 1
            print(f"{backend} {op}: {ran} kernel runs so far", flush=True)
    if device == "cuda":
        torch.cuda.synchronize()
    return ran


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], choices=("float32", "bfloat16"))
    options = parser.parse_args()
    ran = run_all(options.device, options.precisions)
    print(f"{ran} kernel runs" if ran else f"no native kernel can run on {options.device}: nothing to watch")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
