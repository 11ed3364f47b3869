"""The floor of a computation: fewest bytes and operations, over ceilings measured in the same run.

Counting rules. Bytes: every input and parameter read once, every output written once, nothing between; a backward
reads the output's gradient and the saved input, and writes the gradients. Operations: multiply-adds of convolutions and
matrix products, two each; elementwise arithmetic is not counted, nor is anything computed twice. A backward counts
twice its forward. So the share of the roofline is a lower bound, by the same count for all candidates of a group.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from convnextv2_fast.bench.timing import Timing, interleaved, watch_for

from ..rivals.sizes import SIZES


@dataclass(frozen=True)
class Work:
    """Bytes moved and floating-point operations done, at least."""

    bytes: float
    flops: float

    def __add__(self, other: Work) -> Work:
        return Work(self.bytes + other.bytes, self.flops + other.flops)

    def times(self, n: int) -> Work:
        return Work(n * self.bytes, n * self.flops)


@dataclass(frozen=True)
class Ceilings:
    """Bytes and operations per second that the machine was seen to reach."""

    copy: float
    gemm: float

    def floor(self, work: Work) -> float:
        """Seconds below which the work cannot come."""
        return max(work.bytes / self.copy, work.flops / self.gemm)


@dataclass(frozen=True)
class Measured:
    """A timed call, what one of them does (bytes or operations), and the side of its matrices, if it has such."""

    timing: Timing
    work: float
    side: int = 0


def copy_and_product(device: str, dtype: torch.dtype) -> tuple[Measured, Measured]:
    """Times a large copy (bytes read plus written) and a large square matrix product in `dtype`."""
    if device == "cuda":
        elements, side, rounds = 1 << 28, 8192, 15
    else:
        elements, side, rounds = 1 << 24, 1024, 7
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    best = interleaved(
        {"copy": lambda i: target.copy_(source), "gemm": lambda i: torch.mm(a, b, out=out)},
        watch=watch_for(device),
        rounds=rounds,
        round_seconds=0.01,
        max_seconds=10,
    )
    for failed in best.values():
        if isinstance(failed, Exception):
            raise failed
    return Measured(best["copy"], 2.0 * source.nbytes), Measured(best["gemm"], 2.0 * side**3, side)


@functools.cache
def ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """The best of :func:`copy_and_product`, measured once per process."""
    copy, product = copy_and_product(device, dtype)
    return Ceilings(copy.work / min(copy.timing.seconds), product.work / min(product.timing.seconds))


def op_work(op: str, rows: int, c: int, width: int, *, backward: bool, c_out: int = 0, k: int = 1) -> Work:
    """Floor of one op on `rows` rows of `c` channels, `width` bytes an element.

    For patch_conv `rows` counts the rows of the result, k*k input rows each, and `c_out` its channels."""
    unit = rows * c * width
    if op in ("dwconv_layer_norm", "sparse_dwconv"):
        data, params, flops = (2, 3), (51 + 2 * (op == "dwconv_layer_norm")) * c, 2 * 49 * rows * c
    elif op == "mlp_grn":  # u and residual in, y out; then dy and u in, du out (the residual's gradient is dy itself)
        data, params, flops = (3, 3), 8 * c * c + 13 * c, 16 * rows * c * c
    elif op == "patch_conv":
        wide = k * k * c
        inner, outer = rows * wide * width, rows * c_out * width
        weights = (wide * c_out + c_out + 2 * max(c, c_out)) * width
        flops = 2 * rows * wide * c_out
        forward = Work(inner + outer + weights, flops)
        return forward + Work(2 * inner + outer + 2 * weights, 2 * flops) if backward else forward
    else:  # grn, layer_norm, and any op without a count of its own: activation in and out, elementwise
        data, params, flops = (2, 3), 2 * c, 0
    forward = Work(data[0] * unit + params * width, flops)
    return forward + Work(data[1] * unit + 2 * params * width, 2 * flops) if backward else forward


def model_work(size: str, batch: int, resolution: int, width: int, *, backward: bool, visible: float = 1.0) -> Work:
    """Floor of the whole model as the sum of its ops' floors; `visible`: the share of sites that is computed."""
    depths, dims = SIZES[size]
    side, before, total = resolution // 4, 3, Work(0, 0)
    for stage, (depth, c) in enumerate(zip(depths, dims, strict=True)):
        rows = round(batch * side * side * visible)
        k = 2 if stage else 4
        total += op_work("patch_conv", rows, before, width, backward=backward, c_out=c, k=k)
        for op in ("dwconv_layer_norm", "mlp_grn"):
            total += op_work(op, rows, c, width, backward=backward).times(depth)
        side, before = side // 2, c
    return total
