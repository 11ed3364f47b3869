"""GRN in Triton: column sums per group, then one elementwise pass; the same twice over in backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.groups import Groups
from .._triton.group_sums import (
    grn_grad,
    grn_scale,
    groups_of_rows,
    groups_of_tile,
    new_partials,
    reduce_groups,
    store_group_sums,
)
from .._triton.launch import launch

BM, BN = 64, 64


@triton.jit
def sums_kernel(
    x_ptr,  # [T, C]
    dy_ptr,  # [T, C], read if GRAD
    product_ptr,  # slots of sum x^2, or of sum dy x if GRAD
    sum_ptr,  # slots of sum dy, if GRAD
    row_group_ptr,
    offsets_ptr,
    T,
    C,
    rows_per_group,
    GRAD: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    tile = tl.program_id(0)
    rows = tile * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    first, last = groups_of_tile(tile * BM, T, row_group_ptr, rows_per_group, RAGGED, BM)
    mask = (rows < T)[:, None] & (columns < C)[None, :]
    at = (tile * BM).to(tl.int64) * C + tl.arange(0, BM)[:, None] * C + columns[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if GRAD:
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        store_group_sums(product_ptr, dy * x, first, last, tile, columns, C, offsets_ptr, rows_per_group, RAGGED, 0, BM)
        store_group_sums(sum_ptr, dy, first, last, tile, columns, C, offsets_ptr, rows_per_group, RAGGED, 0, BM)
    else:
        store_group_sums(product_ptr, x * x, first, last, tile, columns, C, offsets_ptr, rows_per_group, RAGGED, 0, BM)


@triton.jit
def apply_kernel(
    a_ptr,  # [T, C]
    scale_ptr,  # [G, C]
    b_ptr,  # [T, C] and its factor [G, C] if GRAD: out = a scale + b factor
    factor_ptr,
    beta_ptr,  # [C] otherwise: out = a scale + beta
    out_ptr,  # [T, C]
    row_group_ptr,
    T,
    C,
    rows_per_group,
    GRAD: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    tile = tl.program_id(0)
    rows = tile * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    group = groups_of_rows(rows, T, row_group_ptr, rows_per_group, RAGGED).to(tl.int64)
    mask = (rows < T)[:, None] & (columns < C)[None, :]
    at = (tile * BM).to(tl.int64) * C + tl.arange(0, BM)[:, None] * C + columns[None, :]
    of_group = group[:, None] * C + columns[None, :]
    a = tl.load(a_ptr + at, mask=mask, other=0.0).to(tl.float32)
    out = a * tl.load(scale_ptr + of_group, mask=mask, other=0.0)
    if GRAD:
        b = tl.load(b_ptr + at, mask=mask, other=0.0).to(tl.float32)
        out += b * tl.load(factor_ptr + of_group, mask=mask, other=0.0)
    else:
        out += tl.load(beta_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + at, out, mask=mask)


def forward(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    rows_per_group: int,
    count: int,
    row_group: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`(y [T, C], norm [G, C] float32)` of contiguous rows x."""
    groups, (rows, c) = Groups(rows_per_group, count, row_group, offsets), x.shape
    grid, sizes = (triton.cdiv(rows, BM), triton.cdiv(c, BN)), dict(RAGGED=row_group is not None, BM=BM, BN=BN)
    partial = new_partials(rows, c, BM, groups, x)
    launch(sums_kernel, grid, x, None, partial, None, row_group, offsets, rows, c, rows_per_group, GRAD=False, **sizes)
    squares = reduce_groups(partial, groups, BM)
    norm, y = torch.empty_like(squares), torch.empty_like(x)
    scale = grn_scale(squares, gamma, eps, norm)
    args = (x, scale, None, None, beta, y, row_group, rows, c, rows_per_group)
    launch(apply_kernel, grid, *args, GRAD=False, **sizes)
    return y, norm


def backward(
    dy: Tensor,
    x: Tensor,
    gamma: Tensor,
    norm: Tensor,
    eps: float,
    rows_per_group: int,
    count: int,
    row_group: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`(dx [T, C], dgamma [C], dbeta [C])`, the last two float32."""
    groups, (rows, c) = Groups(rows_per_group, count, row_group, offsets), x.shape
    grid, sizes = (triton.cdiv(rows, BM), triton.cdiv(c, BN)), dict(RAGGED=row_group is not None, BM=BM, BN=BN)
    product, total = (new_partials(rows, c, BM, groups, x) for _ in range(2))
    launch(sums_kernel, grid, x, dy, product, total, row_group, offsets, rows, c, rows_per_group, GRAD=True, **sizes)
    scale, factor, dgamma = grn_grad(reduce_groups(product, groups, BM), gamma, norm, eps)
    dx = torch.empty_like(x)
    args = (dy, scale, x, factor, None, dx, row_group, rows, c, rows_per_group)
    launch(apply_kernel, grid, *args, GRAD=True, **sizes)
    return dx, dgamma, reduce_groups(total, groups, BM).sum(0)
