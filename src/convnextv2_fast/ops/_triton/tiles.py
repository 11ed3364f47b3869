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
    if wide:
        covered = c if name == "output" else 4 * c
        return 64, 32 if covered % 64 else 64, 32, 4, 2, persistent
    rows, columns, depth = (_output_tile if name == "output" else _hidden_tile)(name, family, c)
    # With 64 sums a thread two blocks or more fit a multiprocessor: one multiplies while another does its GELU.
    # "backward" has two products.
    sums = 32 if name == "backward" else 64
    return rows, columns, depth, max(4, rows * columns // (32 * sums)), 3, persistent


def _hidden_tile(name: str, family: str, c: int) -> Sizes:
    """Columns are padded rather than fewer than 64, of which the matrix units of sm_90 and sm_100 take as many."""
    columns = 64 if 4 * c % 128 else 128
    if family in ("sm_90", "gfx942"):
        # sm_90's matrix units read no operand from registers: large tiles fit twice, and read the least from the cache.
        rows = 64 if name == "backward" else 128
    else:
        rows = 64
        if name == "backward" and family != "sm_100":
            columns = 64
    return rows, columns, 64 if c % 64 == 0 and family in ("sm_90", "sm_100") else 32


def _output_tile(name: str, family: str, c: int) -> Sizes:
    """Each block of columns scales all of the activations anew: few blocks, even padded ones."""
    if c % 128:
        return 64, 128 if c > 64 else 64, 32
    return 128, 128, 32 if family in ("sm_89", "sm_120", "gfx942") else 64


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
