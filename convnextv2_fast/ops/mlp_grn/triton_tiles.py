"""Tile sizes of the kernels, by chip family, width and dtype. Every entry compiles without a spill (tests/triton)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from .._triton.chip import Chip
from .triton_table import FUSED

WIDEST_FUSED = max(max(table) for family in FUSED.values() for table in family.values())


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` of the result, `depth` of the contraction a step (hidden channels for "fused")."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def options(self, depth: str) -> dict[str, Any]:
        """Keywords of a launch; the kernel calls its contraction step `depth`."""
        sizes = {"BM": self.rows, "BN": self.columns, depth: self.depth}
        return sizes | dict(num_warps=self.warps, num_stages=self.stages)


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
    """The tile of kernel "hidden", "output", "fused" or "backward" at width c (the result's, for "output")."""
    wide = dtype == torch.float32
    if kernel == "fused":
        table = FUSED[chip.family]["float32" if wide else "half"]
        rows, depth, warps, stages = table[min(width for width in table if width >= c)]
        return Tile(rows, 0, depth, warps, stages)
    tight = chip.family in ("sm_120", "gfx942")  # little shared memory
    if kernel == "output":
        columns = 128 if c % 128 == 0 else 64 if c % 64 == 0 else 32
        if wide:
            return Tile(64, min(columns, 64), 32, 4, 2)
        return Tile(128, columns, 32 if tight else 64, 8, 3)
    if wide and kernel == "backward" and chip.family == "sm_80" and c % 32:
        return Tile(32, 64, 16, 8, 2)
    if wide:
        return Tile(64, 64, 32, 8 if kernel == "backward" and chip.family in ("sm_80", "sm_120") else 4, 2)
    return Tile(64 if kernel == "backward" else 128, 128, 64 if c % 64 == 0 else 32, 8, 3)


def candidates(kernel: str, chip: Chip, dtype: torch.dtype) -> list[Tile]:
    """What tuning tries beside the table's choice: this family's other tiles, and each with other warps and stages."""
    found: dict[Tile, None] = {}
    for c in (40, 96, 128, 192, 320):
        base = tiles(kernel, chip, c, dtype)
        for warps in (4, 8):
            for stages in (1, 2, 3):
                found[replace(base, warps=warps, stages=stages)] = None
    return list(found)
