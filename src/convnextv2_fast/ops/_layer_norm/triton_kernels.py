"""LayerNorm in Triton: whole rows in registers; the parameters' gradients as partial sums per program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import chip
from .._triton.launch import launch

# Wider rows leave no registers for the sums of dweight and dbias beside x and dy, which get a pass of their own.
WIDEST_FUSED = 4096


@triton.jit
def forward_kernel(
    x_ptr,  # [T, C]
    weight_ptr,  # [C], read if APPLY
    bias_ptr,  # [C], read if APPLY
    y_ptr,  # [T, C], written if APPLY
    mean_ptr,  # [T]
    rstd_ptr,  # [T]
    T,
    eps,
    C: tl.constexpr,
    APPLY: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    first = tl.program_id(0) * P
    rows, columns = first + tl.arange(0, P), tl.arange(0, BC)
    valid = (columns < C)[None, :]
    mask = (rows < T)[:, None] & valid
    at = first.to(tl.int64) * C + (tl.arange(0, P)[:, None] * C + columns[None, :])
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / C
    d = tl.where(valid, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + eps)
    tl.store(mean_ptr + rows, mean, mask=rows < T)
    tl.store(rstd_ptr + rows, rstd, mask=rows < T)
    if APPLY:
        weight = tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)
        y = d * rstd[:, None] * weight[None, :] + bias[None, :]
        tl.store(y_ptr + at, y, mask=mask)


@triton.jit
def backward_kernel(
    dy_ptr,  # [T, C]
    x_ptr,  # [T, C]
    weight_ptr,  # [C]
    mean_ptr,  # [T]
    rstd_ptr,  # [T]
    dx_ptr,  # [T, C]
    partial_ptr,  # [2, programs, C]: sums of dy xhat and of dy
    T,
    C: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    columns = tl.arange(0, BC)
    weight = tl.load(weight_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    dweight = tl.zeros((P, BC), tl.float32)
    dbias = tl.zeros((P, BC), tl.float32)
    size = tl.full((), P, tl.int64) * C
    for tile in range(tl.program_id(0), tl.cdiv(T, P), tl.num_programs(0)):
        rows = tile * P + tl.arange(0, P)
        mask = (rows < T)[:, None] & (columns < C)[None, :]
        at = tile * size + (tl.arange(0, P)[:, None] * C + columns[None, :])
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < T, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + rows, mask=rows < T, other=0.0)[:, None]
        xhat = tl.where(mask, (x - mean) * rstd, 0.0)
        dweight += dy * xhat
        dbias += dy
        dy *= weight
        along = tl.sum(dy * xhat, 1)[:, None] / C
        dx = rstd * (dy - tl.sum(dy, 1)[:, None] / C - xhat * along)
        tl.store(dx_ptr + at, dx, mask=mask)
    out = partial_ptr + tl.program_id(0).to(tl.int64) * C + columns
    tl.store(out, tl.sum(dweight, 0), mask=columns < C)
    tl.store(out + tl.num_programs(0).to(tl.int64) * C, tl.sum(dbias, 0), mask=columns < C)


@triton.jit
def wide_kernel(
    dy_ptr,  # [T, C]
    x_ptr,  # [T, C]
    weight_ptr,  # [C]
    mean_ptr,  # [T]
    rstd_ptr,  # [T]
    dx_ptr,  # [T, C]
    C: tl.constexpr,
    BN: tl.constexpr,
):
    row = tl.program_id(0)
    base = row.to(tl.int64) * C
    mean, rstd = tl.load(mean_ptr + row), tl.load(rstd_ptr + row)
    total = tl.zeros((BN,), tl.float32)
    along = tl.zeros((BN,), tl.float32)
    for j in range(0, C, BN):
        columns = j + tl.arange(0, BN)
        mask = columns < C
        x = tl.load(x_ptr + base + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + base + columns, mask=mask, other=0.0).to(tl.float32)
        dy *= tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        total += dy
        along += dy * ((x - mean) * rstd)
    total_mean, along_mean = tl.sum(total, 0) / C, tl.sum(along, 0) / C
    for j in range(0, C, BN):  # x and dy come from the cache this time
        columns = j + tl.arange(0, BN)
        mask = columns < C
        x = tl.load(x_ptr + base + columns, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + base + columns, mask=mask, other=0.0).to(tl.float32)
        dy *= tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        dx = rstd * (dy - total_mean - (x - mean) * rstd * along_mean)
        tl.store(dx_ptr + base + columns, dx, mask=mask)


@triton.jit
def params_kernel(
    dy_ptr,  # [T, C]
    x_ptr,  # [T, C]
    mean_ptr,  # [T]
    rstd_ptr,  # [T]
    partial_ptr,  # [2, programs, C]: sums of dy xhat and of dy
    T,
    C: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    dweight = tl.zeros((BM, BN), tl.float32)
    dbias = tl.zeros((BM, BN), tl.float32)
    size = tl.full((), BM, tl.int64) * C
    for tile in range(tl.program_id(0), tl.cdiv(T, BM), tl.num_programs(0)):
        rows = tile * BM + tl.arange(0, BM)
        mask = (rows < T)[:, None] & (columns < C)[None, :]
        at = tile * size + (tl.arange(0, BM)[:, None] * C + columns[None, :])
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + rows, mask=rows < T, other=0.0)[:, None]
        rstd = tl.load(rstd_ptr + rows, mask=rows < T, other=0.0)[:, None]
        dweight += dy * (x - mean) * rstd
        dbias += dy
    out = partial_ptr + tl.program_id(0).to(tl.int64) * C + columns
    tl.store(out, tl.sum(dweight, 0), mask=columns < C)
    tl.store(out + tl.num_programs(0).to(tl.int64) * C, tl.sum(dbias, 0), mask=columns < C)


def _tile(c: int) -> tuple[int, int, int]:
    """Rows and padded channels of a program, and its warps: 16 elements a thread, more in the widest rows."""
    width = max(16, triton.next_power_of_2(c))
    rows = max(1, 2048 // width)
    return rows, width, min(16, rows * width // 512)


def statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """mean and rstd, float32 `[T]`, of contiguous rows x `[T, C]`."""
    (t, c), (p, width, warps) = x.shape, _tile(x.shape[1])
    mean, rstd = (x.new_empty((t,), dtype=torch.float32) for _ in range(2))
    args = (x, None, None, None, mean, rstd, t, eps)
    launch(forward_kernel, (triton.cdiv(t, p),), *args, num_warps=warps, C=c, APPLY=False, P=p, BC=width)
    return mean, rstd


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`(y [T, C], mean [T], rstd [T])` of contiguous rows x `[T, C]`."""
    (t, c), (p, width, warps) = x.shape, _tile(x.shape[1])
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty((t,), dtype=torch.float32) for _ in range(2))
    args = (x, weight, bias, y, mean, rstd, t, eps)
    launch(forward_kernel, (triton.cdiv(t, p),), *args, num_warps=warps, C=c, APPLY=True, P=p, BC=width)
    return y, mean, rstd


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, eps: float, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`(dx [T, C], dweight [C], dbias [C])` of contiguous rows, the last two float32."""
    (t, c), (p, width, warps) = x.shape, _tile(x.shape[1])
    most = 4 * chip.of(x.device).processors
    dx = torch.empty_like(x)
    args = (dy, x, weight, mean, rstd, dx)
    if width <= WIDEST_FUSED:
        programs = min(triton.cdiv(t, p), most)
        partial = x.new_empty((2, programs, c), dtype=torch.float32)
        launch(backward_kernel, (programs,), *args, partial, t, num_warps=warps, C=c, P=p, BC=width)
    else:
        launch(wide_kernel, (t,), *args, num_warps=8, C=c, BN=2048)
        bm, bn = 8, 128
        across = triton.cdiv(c, bn)
        programs = min(triton.cdiv(t, bm), triton.cdiv(most, across))
        partial = x.new_empty((2, programs, c), dtype=torch.float32)
        launch(params_kernel, (programs, across), dy, x, mean, rstd, partial, t, C=c, BM=bm, BN=bn)
    return dx, partial[0].sum(0), partial[1].sum(0)
