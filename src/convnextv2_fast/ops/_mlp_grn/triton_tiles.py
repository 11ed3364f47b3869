"""Tile sizes of the kernels. No Triton here."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._triton.chip import Chip
from .._triton.tiles import lookup

WIDEST_FUSED = 384  # channels of a row tile whose whole result fits the registers


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` of the result, `depth` of the contraction a step (hidden channels for "fused").

    `persistent`: so many programs a multiprocessor, each of many tiles, read operands by TMA; 0: a program a tile, by
    pointers. ("fused" reads its weights by TMA, but is a program a tile all the same: its registers are full.)
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    persistent: int = 0

    def options(self, depth: str) -> dict[str, Any]:
        """Keywords of a launch; the kernel calls its contraction step `depth`."""
        sizes = {"BM": self.rows, "BN": self.columns, depth: self.depth, "TMA": self.persistent > 0}
        return sizes | dict(num_warps=self.warps, num_stages=self.stages)

    def programs(self, tiles: int, chip: Chip) -> int:
        """How many programs run `tiles` tiles."""
        return min(tiles, self.persistent * chip.processors) if self.persistent else tiles


def pieces(c: int) -> tuple[int, int, int]:
    """C as up to three powers of two of at least 16, largest first, whose sum covers it: 96 = 64 + 32.

    Raises:
        ValueError: for C that three do not cover closely (by less than 16).
    """
    found, left = [], -(-c // 16) * 16
    while left and len(found) < 3:
        piece = 1 << (left.bit_length() - 1)
        found.append(piece)
        left -= piece
    if left:
        found[-1] *= 2  # the last one swallows the rest
    return (*found, *[0] * (3 - len(found)))  # type: ignore[return-value]


def tiles(kernel: str, chip: Chip, c: int, dtype: torch.dtype) -> Tile:
    """The tile of kernel "hidden", "output", "fused" or "backward" at width c (the result's, for "output");
    with " tma" after it, its persistent variant's."""
    return Tile(*lookup(f"mlp_grn {kernel}", chip, c, dtype))


def candidates(kernel: str, chip: Chip, c: int, dtype: torch.dtype) -> list[Tile]:
    """What tuning tries beside the table's choice: this and a shorter and a narrower tile, with other warps and stages;
    persistent where the chip has TMA."""
    bases = [tiles(kernel, chip, c, dtype)]
    if chip.tma and dtype.itemsize == 2:
        bases.append(tiles(f"{kernel} tma", chip, c, dtype))
        if kernel != "fused":
            bases.append(replace(bases[-1], persistent=2))
    found: dict[Tile, None] = {}
    for base in bases:
        narrow = base.columns and max(32, base.columns // 2)
        for size in (base, replace(base, rows=max(16, base.rows // 2)), replace(base, columns=narrow)):
            for warps, stages in itertools.product((4, 8), (2, 3)):
                found[replace(size, warps=warps, stages=stages)] = None
    return list(found)
