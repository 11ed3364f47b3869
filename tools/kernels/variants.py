"""Makes mlp_grn's kernels take their persistent variants, which only tuning picks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from convnextv2_fast.ops._triton import tiles
from convnextv2_fast.ops._triton.chip import Chip

KERNELS = ("hidden", "output", "fused", "backward")


@contextmanager
def persistent(chip: Chip, c: int, dtype: torch.dtype) -> Iterator[None]:
    """Within the block, mlp_grn at width c reads its operands by TMA."""
    with ExitStack() as stack:
        for kernel in KERNELS:
            sizes = tiles.lookup(f"mlp_grn {kernel} tma", chip, c, dtype)
            stack.enter_context(tiles.force(f"mlp_grn {kernel}", sizes))
        yield
