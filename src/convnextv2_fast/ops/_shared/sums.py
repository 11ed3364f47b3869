"""Sums by torch whose order does not depend on the number of threads."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_RUN = 1 << 14  # below the 32768 elements from which torch divides a single sum among its threads


def row_sums(x: Tensor) -> Tensor:
    """`x.sum(1)` of contiguous x `[R, n]`, as sums of runs of 16384 elements and then the sum of these.

    torch gives each thread whole sums if there are several, but divides a single long one."""
    if x.shape[0] != 1 or x.shape[1] <= _RUN:
        return x.sum(1)
    return F.pad(x, (0, -x.shape[1] % _RUN)).view(1, -1, _RUN).sum(2).sum(1)
