"""Column sums over groups of adjacent rows, in a fixed order, and what GRN makes of them.

Row tiles do not respect groups. A tile that touches a group writes that group's partial sum to slot `tile + group`:
going down the rows either grows, so no two pairs share a slot, one group's slots are adjacent, and `tiles + groups`
slots do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._shared.groups import Groups
from .launch import launch


@triton.jit
def groups_of_rows(rows, T, row_group_ptr, rows_per_group, RAGGED: tl.constexpr):
    """The group of each row `[BM]`; rows from T on are given that of row T - 1."""
    rows = tl.minimum(rows, T - 1)
    if RAGGED:
        return tl.load(row_group_ptr + rows)
    else:
        return rows // rows_per_group


@triton.jit
def groups_of_tile(row0, T, row_group_ptr, rows_per_group, RAGGED: tl.constexpr, BM: tl.constexpr):
    """The first and the last group that a tile's rows, from row0 on, are of."""
    last = tl.minimum(row0 + BM, T) - 1
    if RAGGED:
        return tl.load(row_group_ptr + row0), tl.load(row_group_ptr + last)
    else:
        return row0 // rows_per_group, last // rows_per_group


@triton.jit
def rows_of_group(g, offsets_ptr, rows_per_group, RAGGED: tl.constexpr):
    """Its first row, and the row after its last."""
    if RAGGED:
        return tl.load(offsets_ptr + g), tl.load(offsets_ptr + g + 1)
    else:
        return g * rows_per_group, (g + 1) * rows_per_group


@triton.jit
def store_group_sums(
    partial_ptr, value, first, last, tile, columns, K, offsets_ptr, rows_per_group,
    RAGGED: tl.constexpr, AXIS: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Writes the column sums of a float32 tile, whose BM rows lie along AXIS, for each of its groups first .. last.

    A group is told by its first row and its end, not by the groups of the rows: a thread that holds many rows, and so
    needs few shuffles, would divide for each. A tile of one group, as most are, is not masked."""
    row0 = tile * BM
    rows = tl.expand_dims(row0 + tl.arange(0, BM), 1 - AXIS)
    for g in range(first, last + 1):
        begin, end = rows_of_group(g, offsets_ptr, rows_per_group, RAGGED)
        if begin <= row0 and row0 + BM <= end:
            total = tl.sum(value, AXIS)
        else:
            total = tl.sum(tl.where((rows >= begin) & (rows < end), value, 0.0), AXIS)
        tl.store(partial_ptr + (tile + g).to(tl.int64) * K + columns, total, mask=columns < K)


@triton.jit
def reduce_kernel(
    partial_ptr,  # [slots, K]
    out_ptr,  # [G, K]
    offsets_ptr,  # [G + 1]
    rows_per_group,
    K,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    g = tl.program_id(0)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    begin, end = rows_of_group(g, offsets_ptr, rows_per_group, RAGGED)
    first = begin // BM
    count = tl.where(end > begin, (end - 1) // BM - first + 1, 0)
    total = tl.zeros([BN], tl.float32)
    for i in range(0, count, BT):
        t = i + tl.arange(0, BT)
        slots = (first + g + t).to(tl.int64)[:, None] * K + columns[None, :]
        mask = (t < count)[:, None] & (columns < K)[None, :]
        total += tl.sum(tl.load(partial_ptr + slots, mask=mask, other=0.0), 0)
    tl.store(out_ptr + g.to(tl.int64) * K + columns, total, mask=columns < K)


@triton.jit
def scale_kernel(
    squares_ptr,  # [G, K]
    gamma_ptr,  # [K]
    norm_ptr,  # [G, K]
    scale_ptr,  # [G, K]
    K,
    eps,
    BN: tl.constexpr,
):
    """norm = sqrt(squares), scale = 1 + gamma norm / (mean norm + eps)."""
    base = tl.program_id(0).to(tl.int64) * K
    total = tl.zeros([BN], tl.float32)
    for k in range(0, K, BN):
        columns = k + tl.arange(0, BN)
        norm = tl.sqrt(tl.load(squares_ptr + base + columns, mask=columns < K, other=0.0))
        tl.store(norm_ptr + base + columns, norm, mask=columns < K)
        total += norm
    denominator = tl.sum(total, 0) / K + eps
    for k in range(0, K, BN):
        columns = k + tl.arange(0, BN)
        norm = tl.sqrt(tl.load(squares_ptr + base + columns, mask=columns < K, other=0.0))
        gamma = tl.load(gamma_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
        tl.store(scale_ptr + base + columns, 1.0 + gamma * (norm / denominator), mask=columns < K)


@triton.jit
def grad_kernel(
    product_ptr,  # [G, K]: sum over the group's rows of dy x
    gamma_ptr,  # [K]
    norm_ptr,  # [G, K]
    scale_ptr,  # [G, K], out: 1 + gamma Nx
    factor_ptr,  # [G, K], out
    dgamma_ptr,  # [G, K], out: this group's share of dgamma
    K,
    eps,
    BN: tl.constexpr,
):
    """dx = dy scale + x factor, where factor is the gradient of the norm over the norm (0 where the norm is 0)."""
    base = tl.program_id(0).to(tl.int64) * K
    sum_norm = tl.zeros([BN], tl.float32)
    sum_inner = tl.zeros([BN], tl.float32)
    for k in range(0, K, BN):
        columns = k + tl.arange(0, BN)
        norm = tl.load(norm_ptr + base + columns, mask=columns < K, other=0.0)
        gamma = tl.load(gamma_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
        sum_norm += norm
        sum_inner += gamma * norm * tl.load(product_ptr + base + columns, mask=columns < K, other=0.0)
    denominator = tl.sum(sum_norm, 0) / K + eps
    common = tl.sum(sum_inner, 0) / (K * denominator * denominator)
    for k in range(0, K, BN):
        columns = k + tl.arange(0, BN)
        norm = tl.load(norm_ptr + base + columns, mask=columns < K, other=0.0)
        gamma = tl.load(gamma_ptr + columns, mask=columns < K, other=0.0).to(tl.float32)
        product = tl.load(product_ptr + base + columns, mask=columns < K, other=0.0)
        factor = (gamma * product / denominator - common) / tl.where(norm > 0, norm, 1.0)
        tl.store(scale_ptr + base + columns, 1.0 + gamma * (norm / denominator), mask=columns < K)
        tl.store(factor_ptr + base + columns, tl.where(norm > 0, factor, 0.0), mask=columns < K)
        tl.store(dgamma_ptr + base + columns, product * (norm / denominator), mask=columns < K)


def new_partials(rows: int, k: int, bm: int, groups: Groups, like: Tensor) -> Tensor:
    """Slots `[tiles + G, K]` for :func:`store_group_sums` with row tiles of `bm`."""
    return like.new_empty((triton.cdiv(rows, bm) + groups.count, k), dtype=torch.float32)


def reduce_groups(partial: Tensor, groups: Groups, bm: int) -> Tensor:
    """The sums `[G, K]` of the slots."""
    k = partial.shape[1]
    out = partial.new_empty((groups.count, k))
    grid = (groups.count, triton.cdiv(k, 64))
    ragged = groups.offsets is not None
    args = (partial, out, groups.offsets, groups.rows_per_group, k)
    launch(reduce_kernel, grid, *args, RAGGED=ragged, BM=bm, BT=32, BN=64)
    return out


def grn_scale(squares: Tensor, gamma: Tensor, eps: float, norm: Tensor) -> Tensor:
    """Fills `norm` `[G, K]` and returns `1 + gamma * Nx`, from the sums of squares."""
    scale = torch.empty_like(squares)
    launch(scale_kernel, (squares.shape[0],), squares, gamma, norm, scale, squares.shape[1], eps, BN=512)
    return scale


def grn_grad(product: Tensor, gamma: Tensor, norm: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`scale`, `factor` `[G, K]` and `dgamma` `[K]` from `product` `[G, K]`, the sums of `dy x`."""
    scale, factor, shares = (torch.empty_like(product) for _ in range(3))
    k = product.shape[1]
    launch(grad_kernel, (product.shape[0],), product, gamma, norm, scale, factor, shares, k, eps, BN=512)
    return scale, factor, shares.sum(0)
