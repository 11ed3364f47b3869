"""Starts kernels. Everything that is launched passes here, so that tests can watch it or compile it elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Hook = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]
_hook: Hook | None = None


def launch(
    kernel: Any, grid: tuple[int, ...], *args: Any, num_warps: int = 4, num_stages: int = 2, **constexprs: Any
) -> None:
    """Runs a `@triton.jit` kernel over `grid`, on the device of its first tensor; nothing for an empty grid.

    `constexprs` are the kernel's compile-time arguments, by keyword; all others are positional. Multiplication and
    addition may fuse into FMA, on every Triton version."""
    if not all(grid):
        return
    options = dict(constexprs, num_warps=num_warps, num_stages=num_stages, enable_fp_fusion=True)
    if _hook is not None:
        _hook(kernel, grid, args, options)
        return
    first = next(a for a in args if isinstance(a, Tensor))
    with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
        kernel[grid](*args, **options)


@contextlib.contextmanager
def intercept(hook: Hook) -> Iterator[None]:
    """Within the block, kernels are not run: `hook(kernel, grid, args, options)` gets each launch. For tests."""
    global _hook
    before, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = before
