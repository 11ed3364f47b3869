"""Global response normalisation in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...spec import Implementation, always
from .._shared.checks import statistics_dtype
from .._shared.groups import Groups
from .call import GrnCall


def scale(x: Tensor, gamma: Tensor, eps: float, groups: Groups) -> Tensor:
    """`1 + gamma * Nx` for rows x `[T, C]`: `[G, 1, C]` for equal groups, `[T, C]` for others; wide dtype."""
    wide = statistics_dtype(x)
    if groups.row_group is not None:
        squares = x.new_zeros(groups.count, x.shape[1], dtype=wide)
        squares = squares.index_add(0, groups.row_group, x.to(wide).square())
        # d sqrt at 0 is infinite; the norm's subgradient there is 0.
        norm = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
        return (1 + gamma.to(wide) * (norm / (norm.mean(-1, keepdim=True) + eps)))[groups.row_group]
    group = x.reshape(groups.count, groups.rows_per_group, x.shape[1])
    norm = torch.linalg.vector_norm(group, dim=1, keepdim=True, dtype=wide)
    return 1 + gamma.to(wide) * (norm / (norm.mean(-1, keepdim=True) + eps))


def run(call: GrnCall) -> Tensor:
    """`x * (1 + gamma * Nx) + beta`, statistics and arithmetic in float32 for float16 and bfloat16."""
    x = call.x
    wide = statistics_dtype(x)
    rows = x.reshape(-1, x.shape[-1])
    s = scale(rows, call.gamma, call.eps, call.groups)
    grouped = rows.view(s.shape[0], call.groups.rows_per_group, s.shape[-1]) if s.ndim == 3 else rows
    y = torch.addcmul(call.beta.to(wide), grouped.to(wide), s)
    return y.to(x.dtype).view(x.shape)


def grn(x: Tensor, gamma: Tensor, beta: Tensor, **options: Any) -> Tensor:
    """:func:`convnextv2_fast.ops.grn` in plain PyTorch, without its checks; `options`: eps, rows_per_group."""
    return run(GrnCall.of(x, gamma, beta, **options))


TORCH = Implementation("torch", run, always)
