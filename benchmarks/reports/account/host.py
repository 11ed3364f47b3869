"""The machine: how fast its host runs Python, what a launch costs there, and the ceilings of memory and products.

Figures of the host are needed to read every other one: the same code took 38 ms a step in one process and 53 ms in
another, for kernels that need about 14.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convnextv2_fast.bench.timing import quantile

from ...suite.roofline import copy_and_product
from .. import machine
from ..tidy import noted
from .context import Context

CALLS, ROUNDS = 200, 9


class Bare(torch.autograd.Function):
    """The least that a differentiable op costs on the host: tensors are saved, nothing is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        return torch.empty_like(gradients[0]), None


def wall(function: Callable[[], object], calls: int, rounds: int) -> dict[str, float]:
    """Milliseconds of one call, by the wall clock, nothing waited for: median and percentiles of the rounds."""
    function()
    found = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(calls):
            function()
        found.append(1e3 * (time.perf_counter() - begin) / calls)
    return {"ms": quantile(found, 0.5), "p20": quantile(found, 0.2), "p80": quantile(found, 0.8)}


def count_to_a_million() -> int:
    total = 0
    for i in range(1_000_000):
        total += i
    return total


def run(context: Context) -> None:
    calls, rounds = (4, 1) if context.dry else (CALLS, ROUNDS)
    context.add(
        "a loop of a million additions",
        "python",
        note=noted(python=platform.python_version(), cpu=machine.cpu_model(), driver=machine.driver()),
        **wall(count_to_a_million, 1, rounds),
    )
    x, weight = torch.randn(2, 8, requires_grad=True), torch.randn(8)
    gradient = torch.randn(2, 8)
    bare: dict[str, Callable[[], object]] = {
        "autograd.Function, forward and backward": lambda: torch.autograd.grad(Bare.apply(x, weight), x, gradient),
        "empty, no gradient": lambda: torch.empty_like(gradient),
    }
    for case, function in bare.items():
        context.add(case, "pytorch", "cpu tensors", **wall(function, calls, rounds))

    y = torch.zeros(8, device=context.device)
    context.add("launch of a small kernel, queued", "pytorch", **wall(lambda: y.add_(1), calls, rounds))
    if context.device == "cuda":
        torch.cuda.synchronize()

        def launch_and_wait() -> None:
            y.add_(1)
            torch.cuda.synchronize()

        queries: dict[str, Callable[[], object]] = {
            "launch of a small kernel, waited for": launch_and_wait,
            "torch.cuda.is_available": torch.cuda.is_available,
            "torch.cuda.get_device_properties": lambda: torch.cuda.get_device_properties(0),
            "torch.cuda.current_stream": torch.cuda.current_stream,
        }
        for case, function in queries.items():
            context.add(case, "pytorch", **wall(function, calls // 4, rounds))
    ceilings(context)


def ceilings(context: Context) -> None:
    """A large copy, bytes read plus bytes written, and a large square product in each dtype."""
    copied = False
    for dtype in ("float32",) if context.dry else ("bfloat16", "float16", "float32"):
        copy, product = copy_and_product(context.device, getattr(torch, dtype))
        if not copied:
            rate = noted(gb_per_s=f"{copy.work / min(copy.timing.seconds) / 1e9:.4g}")
            context.add("copy", "pytorch", part="ceilings", note=rate, **copy.timing.percentiles())
            copied = True
        rate = noted(tflop_per_s=f"{product.work / min(product.timing.seconds) / 1e12:.4g}")
        figures = product.timing.percentiles()
        context.add(f"product of {product.side}", "pytorch", part="ceilings", dtype=dtype, note=rate, **figures)
