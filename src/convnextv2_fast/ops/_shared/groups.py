"""Groups of adjacent rows that share one GRN norm, in the form the kernels take."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from ... import plain
from ...errors import UnsupportedInputError
from .checks import check


class Groups(NamedTuple):
    """Groups of `rows_per_group` rows each; if their sizes differ, `rows_per_group` is 0 and two maps describe them.

    Attributes:
        row_group: int32 `[T]`, the group of each row. offsets: int32 `[G + 1]`, each group's first row.
    """

    rows_per_group: int
    count: int  # type: ignore[assignment]  # not the method of tuples
    row_group: Tensor | None
    offsets: Tensor | None

    @classmethod
    def of(cls, op: str, x: Tensor, rows_per_group: int | Tensor | None) -> Groups:
        """Makes groups from a public op's `rows_per_group`: an int, counts int64 `[G]`, or None for the H*W rows of
        each sample of x `[N, H, W, C]`. Reads nothing from the device.

        Raises:
            UnsupportedInputError: they do not fit the rows of x.
        """
        if plain.recorded_by_jit():
            return cls(*_recorded(x, rows_per_group), None, None)
        rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
        if isinstance(rows_per_group, Tensor):
            _check_counts(op, x, rows, rows_per_group)
            return _of_counts(rows, rows_per_group.to(x.device))
        if rows_per_group is None:
            check(x.ndim == 4, op, "rows_per_group is needed for [T, C] rows", x=x)
            rows_per_group = x.shape[1] * x.shape[2]
        else:
            fits = rows == 0 or (rows_per_group > 0 and rows % rows_per_group == 0)
            check(fits, op, "rows_per_group={} does not divide the {} rows", rows_per_group, rows, x=x)
        return cls(max(rows_per_group, 1), rows // max(rows_per_group, 1), None, None)


def _recorded(x: Tensor, rows_per_group: int | Tensor | None) -> tuple[int, int]:
    """Size and number of equal groups while torch.jit.trace records: tensors, so that they hold for other sizes."""
    if rows_per_group is None:
        return x.shape[1] * x.shape[2], x.shape[0]
    if isinstance(rows_per_group, Tensor) and rows_per_group.ndim > 0:
        raise UnsupportedInputError("grn: torch.jit.trace cannot record groups of different sizes")
    size = cast(int, rows_per_group)
    return size, x.shape[0] // size


def _check_counts(op: str, x: Tensor, rows: int, counts: Tensor) -> None:
    check(counts.ndim == 1 and counts.dtype == torch.int64, op, "rows_per_group must be an int or int64 [G]", x=x)
    if counts.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would wait for the device
        adds_up = int(counts.sum()) == rows and (counts.numel() == 0 or int(counts.min()) >= 0)
        check(adds_up, op, "rows_per_group must add up to the {} rows", rows, x=x)


def _of_counts(rows: int, counts: Tensor) -> Groups:
    number, device = counts.shape[0], counts.device
    ids = torch.arange(number, dtype=torch.int32, device=device)
    offsets = torch.zeros(number + 1, dtype=torch.int32, device=device)
    offsets[1:] = counts.cumsum(0)
    return Groups(0, number, torch.repeat_interleave(ids, counts, output_size=rows), offsets)


GROUPS = "SymInt rows_per_group, SymInt groups, Tensor? row_group, Tensor? offsets"  # Groups in a schema
