"""Tile sizes by chip family, kernel, dtype and width: a rule, and the table of its exceptions `tiles.tsv`. No Triton.

The rule gives the tile that is likeliest to be fast. Where that one does not compile for a family without spilling
registers or within its shared memory, `tiles.tsv` has the next that does; `tools/kernels/tiles.py` writes the table. No
tile is chosen by time yet; `autotune` does that on a device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch

from .chip import Chip

Sizes = tuple[int, ...]  # rows, columns, depth, warps, stages, persistent; of "dwconv" kernels columns and channels
EXCEPTIONS = Path(__file__).with_name("tiles.tsv")
# Channels of the eight models' layers. Another width takes the tile of the next one, beyond the last that of the last.
WIDTHS = (40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 352, 384, 512, 640, 704, 768, 1024, 1408, 1536, 2816)
WIDEST = {"mlp_grn fused": 384, "dwconv norm": 512, "dwconv train": 512}  # kernels that wider layers do not use
_forced: dict[str, Sizes] = {}


def rule(kernel: str, family: str, c: int, wide: bool) -> Sizes:
    """The tile that is likeliest to be fast, for activations of 4 bytes (`wide`) or of 2."""
    op, name, *variant = kernel.split()
    if op == "dwconv":
        if name in ("norm", "train"):
            return 4, 0
        return 4, min((64, 32, 16), key=lambda block: (-(-c // block) * block, -block))  # the least padding
    persistent = int(variant == ["tma"])
    if name == "fused":
        return (64, 0, 16, 4, 1, persistent) if wide else (128, 0, 32, 4 if c <= 64 else 8, 2, persistent)
    covered = c if name == "output" else 4 * c
    columns = next((n for n in ((64,) if wide else (128, 64)) if covered % n == 0), 32)
    short = wide or (c % 64 and name != "output") or family in ("sm_89", "sm_120", "gfx942")
    rows = 64 if wide or name == "backward" else 128
    return rows, columns, 32 if short else 64, 4 if rows * columns <= 4096 else 8, 2 if wide else 3, persistent


@functools.cache
def exceptions() -> dict[tuple[str, str, str, int], Sizes]:
    """(family, kernel, "half" or "float32", width) to sizes, where the rule's tile does not fit."""
    found: dict[tuple[str, str, str, int], Sizes] = {}
    for line in EXCEPTIONS.read_text().splitlines()[1:]:
        family, kernel, dtype, widths, sizes = line.split("\t")
        for c in widths.split():
            found[family, kernel, dtype, int(c)] = tuple(map(int, sizes.split()))
    return found


@functools.cache
def _chosen(kernel: str, family: str, c: int, wide: bool) -> Sizes:
    widest = WIDEST.get(kernel.removesuffix(" tma"), WIDTHS[-1])
    c = next(width for width in WIDTHS if width >= min(c, widest))
    key = family, kernel, "float32" if wide else "half", c
    return exceptions().get(key) or rule(kernel, family, c, wide)


def lookup(kernel: str, chip: Chip, c: int, dtype: torch.dtype) -> Sizes:
    """The sizes of a kernel at width c; another width than a model's takes those of the next wider, or widest."""
    return _forced.get(kernel) or _chosen(kernel, chip.family, c, dtype == torch.float32)


@contextlib.contextmanager
def force(kernel: str, sizes: Sizes) -> Iterator[None]:
    """Within the block, the kernel has these sizes, whatever the table says."""
    _forced[kernel] = sizes
    try:
        yield
    finally:
        del _forced[kernel]
