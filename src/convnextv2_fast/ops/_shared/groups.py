"""Groups of adjacent rows that share one GRN norm, in the form the kernels take."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    def of(cls, rows: int, rows_per_group: int | Tensor, device: torch.device) -> Groups:
        """Makes groups from the public ops' `rows_per_group`, an int or counts `[G]`. Reads nothing from the device."""
        if not isinstance(rows_per_group, Tensor):
            return cls(max(rows_per_group, 1), rows // max(rows_per_group, 1), None, None)
        counts = rows_per_group.to(device)
        number = counts.shape[0]
        ids = torch.arange(number, dtype=torch.int32, device=device)
        offsets = torch.zeros(number + 1, dtype=torch.int32, device=device)
        offsets[1:] = counts.cumsum(0)
        return cls(0, number, torch.repeat_interleave(ids, counts, output_size=rows), offsets)


GROUPS = "SymInt rows_per_group, SymInt groups, Tensor? row_group, Tensor? offsets"  # Groups in a schema
