"""Global response normalisation in plain PyTorch."""

import torch
from torch import Tensor

from .._shared.checks import samples, statistics_dtype


def scale(x: Tensor, gamma: Tensor, *, eps: float, rows_per_group: int | Tensor) -> Tensor:
    """`1 + gamma * Nx` for rows x `[T, C]`: `[G, 1, C]` for equal groups, `[T, C]` for counts `[G]`; wide dtype."""
    wide = statistics_dtype(x)
    if isinstance(rows_per_group, Tensor):
        groups = rows_per_group.shape[0]
        member = torch.repeat_interleave(
            torch.arange(groups, device=x.device), rows_per_group.to(x.device), output_size=x.shape[0]
        )
        squares = x.new_zeros(groups, x.shape[1], dtype=wide).index_add(0, member, x.to(wide).square())
        # d sqrt at 0 is infinite; the norm's subgradient there is 0.
        norm = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
        return (1 + gamma.to(wide).view(-1) * (norm / (norm.mean(-1, keepdim=True) + eps)))[member]
    group = x.reshape(-1, rows_per_group, x.shape[1]) if x.shape[0] else x.view(0, 1, x.shape[1])
    norm = torch.linalg.vector_norm(group, dim=1, keepdim=True, dtype=wide)
    return 1 + gamma.to(wide).view(-1) * (norm / (norm.mean(-1, keepdim=True) + eps))


def grn(
    x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-6, rows_per_group: int | Tensor | None = None
) -> Tensor:
    """`gamma * (x * Nx) + beta + x`, `Nx = G / (mean_C G + eps)`, `G = ||x||_2` per group of rows and channel.

    Computed as `x * (1 + gamma * Nx) + beta`, statistics and arithmetic in float32 for float16 and bfloat16."""
    rows_per_group = samples(x, rows_per_group, "grn")
    wide = statistics_dtype(x)
    rows = x.reshape(-1, x.shape[-1])
    s = scale(rows, gamma, eps=eps, rows_per_group=rows_per_group)
    grouped = rows.view(s.shape[0], -1, s.shape[-1]) if s.ndim == 3 and s.shape[0] else rows
    y = torch.addcmul(beta.to(wide).view(-1), grouped.to(wide), s if s.numel() else s.view(-1, s.shape[-1]))
    return y.to(x.dtype).view(x.shape)
