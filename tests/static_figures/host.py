"""Microseconds of the host that a block costs, before any kernel: Python, dispatcher, autograd, the operators' checks
and allocations, the library's products on matrices so small that they cost their calls alone.

The backend `cuda` runs on CPU tensors, with operators that launch nothing. It is set up by changing globals, so this is
a program of its own: python -m tests.static_figures.host prints JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import convnextv2_fast as cf
from convnextv2_fast.models.convnextv2 import Block
from convnextv2_fast.ops._shared import cuda
from tests.compile_cache import ROOT

from .figures import Figure
from .operators import Operators

BARE = "a bare autograd.Function, forward and backward"
YARDSTICK = "a linear layer with a backward of its own, forward and backward"
UNIT = "times that linear layer"
PRECISIONS = ("bfloat16 parameters", "autocast with float32 parameters")
CHANNELS, IMAGES = 8, 2
# Measured again and again, also beside busy processes, a ratio stayed within 12 % of its least value; a block that
# takes 30 % longer shall fail.
ROOM = 1.2


def measure() -> list[Figure]:
    """In a process of its own."""
    command = (sys.executable, "-m", "tests.static_figures.host")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])}\n{done.stderr[-4000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    source = "src/convnextv2_fast/ops"
    times = [Figure("host", name, "µs", us, source, room=None) for name, us in found.items()]
    yardstick, blocks = found[YARDSTICK], {name: us for name, us in found.items() if name not in (BARE, YARDSTICK)}
    return times + [Figure("host", name, UNIT, us / yardstick, source, room=ROOM) for name, us in blocks.items()]


def quickest(subjects: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """Microseconds of a call of each, in CPU time, least of the rounds. The subjects take turns, so that a machine that
    becomes slower is slower for all."""
    best = dict.fromkeys(subjects, float("inf"))
    gc.disable()
    for _ in range(rounds):
        for subject, call in subjects.items():
            for _ in range(3):  # the others left little of it in the caches
                call()
            start = time.process_time()
            for _ in range(calls):
                call()
            best[subject] = min(best[subject], (time.process_time() - start) / calls * 1e6)
    gc.enable()
    return best


def _yardsticks() -> dict[str, Callable[[], Any]]:
    """Calls that do not depend on the library, of the same mixture of Python, dispatcher and autograd."""

    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any) -> Any:  # type: ignore[override]
            ctx.save_for_backward(x, weight)
            return torch.empty_like(x)

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:  # type: ignore[override]
            _ = ctx.saved_tensors
            return torch.empty_like(dy), None

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any) -> Any:  # type: ignore[override]
            ctx.save_for_backward(x, weight)
            return (x.reshape(-1, x.shape[-1]) @ weight.to(x.dtype).t()).view(x.shape)

        @staticmethod
        def backward(ctx: Any, dy: Any) -> Any:  # type: ignore[override]
            x, weight = ctx.saved_tensors
            return dy @ weight.to(dy.dtype), (dy.t() @ x).to(weight.dtype), dy.sum(0, dtype=torch.float32)

    class Linear(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            for parameter in (self.weight, self.bias):
                if parameter.device != x.device or parameter.dtype not in (x.dtype, torch.float32):
                    raise ValueError("parameters must be float32 or like x, and on its device")
            return Product.apply(x, self.weight, self.bias)

    plain, vector = torch.randn(IMAGES, CHANNELS, requires_grad=True), torch.randn(CHANNELS)
    layer, x = Linear(CHANNELS, CHANNELS), torch.randn(IMAGES, CHANNELS).bfloat16().requires_grad_()
    of, dy = [x, *layer.parameters()], torch.randn(IMAGES, CHANNELS)
    short = dy.bfloat16()
    return {
        BARE: lambda: torch.autograd.grad(Bare.apply(plain, vector), plain, dy),
        YARDSTICK: lambda: torch.autograd.grad(layer(x), of, short),
    }


def _block(precision: str) -> dict[str, Callable[[], Any]]:
    block = Block(CHANNELS)
    if precision == PRECISIONS[0]:
        block = block.bfloat16()
    parameters = list(block.parameters())
    x = torch.randn(IMAGES, CHANNELS, 1, 1).bfloat16().to(memory_format=torch.channels_last)
    tracked, dy = x.clone().requires_grad_(), torch.randn(IMAGES, CHANNELS, 1, 1).bfloat16()

    def autocast() -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if precision == PRECISIONS[1] else contextlib.nullcontext()

    def inference() -> Any:
        with torch.inference_mode(), autocast():
            return block(x)

    def forward() -> Any:
        with autocast():
            return block(tracked)

    def both() -> Any:
        return torch.autograd.grad(forward(), [tracked, *parameters], dy)

    calls = {"inference": inference, "training forward": forward, "forward and backward": both}
    return {f"a block, {what}, {precision}": call for what, call in calls.items()}


def main() -> None:
    torch.set_num_threads(1)
    Operators()
    cuda.DEVICE, cuda.DWCONV = "cpu", "mma"  # what "auto" is on a GPU
    assert cuda.tensor_cores()
    subjects = _yardsticks()
    for precision in PRECISIONS:
        subjects |= _block(precision)
    with cf.use_backend("cuda"):
        print(json.dumps(quickest(subjects, rounds=60, calls=10)))


if __name__ == "__main__":
    main()
