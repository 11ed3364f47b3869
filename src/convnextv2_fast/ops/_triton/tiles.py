"""The static table of tile sizes, `tiles.tsv`: by chip family, kernel, dtype and width. No Triton here.

Each entry is the first of a list, the likeliest to be fast first, that compiles for its family without a spill
(`tests/triton/choose.py` wrote it). None is chosen by time yet; `autotune` does that on a device.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import torch

from .chip import Chip

TABLE = Path(__file__).with_name("tiles.tsv")
_forced: dict[str, tuple[int, ...]] = {}


@functools.cache
def table() -> dict[tuple[str, str, str], dict[int, tuple[int, ...]]]:
    """(family, kernel, "half" or "float32") to width to sizes."""
    found: dict[tuple[str, str, str], dict[int, tuple[int, ...]]] = {}
    for line in TABLE.read_text().splitlines()[1:]:
        family, kernel, dtype, c, *sizes = line.split("\t")
        found.setdefault((family, kernel, dtype), {})[int(c)] = tuple(map(int, sizes))
    return found


def lookup(kernel: str, chip: Chip, c: int, dtype: torch.dtype) -> tuple[int, ...]:
    """The sizes of a kernel at width c; a width that is not in the table takes those of the next wider, or widest."""
    if kernel in _forced:
        return _forced[kernel]
    widths = table()[chip.family, kernel, "float32" if dtype == torch.float32 else "half"]
    return widths[min((w for w in widths if w >= c), default=max(widths))]


@contextlib.contextmanager
def force(kernel: str, sizes: tuple[int, ...]) -> Iterator[None]:
    """Within the block, the kernel has these sizes, whatever the table says."""
    _forced[kernel] = sizes
    try:
        yield
    finally:
        del _forced[kernel]
