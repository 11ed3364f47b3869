"""The depthwise convolution in Triton. Dense planes are swept (`triton_sweep`). Here are sparse layouts: tiles of
adjacent rows, neighbours from the cache; parameters' gradients in two passes, partial sums of row ranges first."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import chip
from .._triton.gather import convolve, load_neighbours, site_of
from .._triton.launch import launch
from . import triton_sweep as sweep


@triton.jit
def convolve_kernel(
    x_ptr,  # [T, C]
    kernel_ptr,  # [49, C]
    bias_ptr,  # [C] or None
    y_ptr,  # [T, C]
    index_ptr,  # int64 [T]
    map_ptr,  # int32 [N, H, W]
    T,
    units,
    H,
    W,
    UNIT: tl.constexpr,
    FLIP: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    C = units * UNIT
    first = tl.program_id(0) * P
    rows = first + tl.arange(0, P)
    columns = tl.program_id(1) * BC + tl.arange(0, BC)
    acc = convolve(x_ptr, kernel_ptr, bias_ptr, index_ptr, map_ptr, rows, columns, T, C, H, W, FLIP, P, BC)
    at = first.to(tl.int64) * C + (tl.arange(0, P)[:, None] * C + columns[None, :])
    tl.store(y_ptr + at, acc, mask=(rows < T)[:, None] & (columns < C)[None, :])


@triton.jit
def parameters_kernel(
    dy_ptr,  # [T, C]
    x_ptr,  # [T, C]
    index_ptr,  # int64 [T]
    map_ptr,  # int32 [N, H, W]
    partial_ptr,  # [splits, 50, C]: the taps, then the bias
    T,
    units,
    H,
    W,
    UNIT: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradients of the taps of one ky, over every row tile of this split: dy is read once for seven taps."""
    C = units * UNIT
    ky = tl.program_id(0)
    columns = tl.program_id(1) * BC + tl.arange(0, BC)
    dbias = tl.zeros((P, BC), tl.float32)
    d0 = tl.zeros((P, BC), tl.float32)
    d1 = tl.zeros((P, BC), tl.float32)
    d2 = tl.zeros((P, BC), tl.float32)
    d3 = tl.zeros((P, BC), tl.float32)
    d4 = tl.zeros((P, BC), tl.float32)
    d5 = tl.zeros((P, BC), tl.float32)
    d6 = tl.zeros((P, BC), tl.float32)
    size = tl.full((), P, tl.int64) * C
    for tile in range(tl.program_id(2), tl.cdiv(T, P), tl.num_programs(2)):
        rows = tile * P + tl.arange(0, P)
        site, y, x = site_of(rows, T, H, W, index_ptr)
        at = tile * size + (tl.arange(0, P)[:, None] * C + columns[None, :])
        mask = (rows < T)[:, None] & (columns < C)[None, :]
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dbias += dy
        d0 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, -3, columns, T, C, H, W, map_ptr)
        d1 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, -2, columns, T, C, H, W, map_ptr)
        d2 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, -1, columns, T, C, H, W, map_ptr)
        d3 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, 0, columns, T, C, H, W, map_ptr)
        d4 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, 1, columns, T, C, H, W, map_ptr)
        d5 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, 2, columns, T, C, H, W, map_ptr)
        d6 += dy * load_neighbours(x_ptr, rows, site, y, x, ky - 3, 3, columns, T, C, H, W, map_ptr)
    out = partial_ptr + tl.program_id(2).to(tl.int64) * (50 * C) + columns
    tl.store(out + (0 * 7 + ky) * C, tl.sum(d0, 0), mask=columns < C)
    tl.store(out + (1 * 7 + ky) * C, tl.sum(d1, 0), mask=columns < C)
    tl.store(out + (2 * 7 + ky) * C, tl.sum(d2, 0), mask=columns < C)
    tl.store(out + (3 * 7 + ky) * C, tl.sum(d3, 0), mask=columns < C)
    tl.store(out + (4 * 7 + ky) * C, tl.sum(d4, 0), mask=columns < C)
    tl.store(out + (5 * 7 + ky) * C, tl.sum(d5, 0), mask=columns < C)
    tl.store(out + (6 * 7 + ky) * C, tl.sum(d6, 0), mask=columns < C)
    if ky == 0:
        tl.store(out + 49 * C, tl.sum(dbias, 0), mask=columns < C)


def _columns(c: int) -> int:
    """Channels of a program: the chunk that pads c least, the wider of equals. Narrow ones waste cache lines."""
    return min((128, 64) if c > 32 else (32, 16), key=lambda b: (triton.cdiv(c, b) * b, -b))


def _convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    h: int,
    w: int,
    index: Tensor | None,
    site_map: Tensor | None,
    flip: bool,
) -> Tensor:
    y = torch.empty_like(x)
    if index is None:
        sweep.convolve(x, kernel, bias, h, w, flip=flip, z=y)
        return y
    (t, c), bc = x.shape, _columns(x.shape[1])
    across, unit = triton.cdiv(c, bc), math.gcd(c, 16)
    # 32 elements a thread use each weight for several rows; small problems need the programs more.
    small = triton.cdiv(t * bc, 4096) * across < 2 * chip.of(x.device).processors
    p = min(64, (1024 if small else 4096) // bc)
    args = (x, kernel, bias, y, index, site_map, t, c // unit, h, w)
    sizes = dict(UNIT=unit, FLIP=flip, P=p, BC=bc)
    launch(convolve_kernel, (triton.cdiv(t, p), across), *args, num_warps=4, **sizes)
    return y


def forward(
    x: Tensor, kernel: Tensor, bias: Tensor | None, h: int, w: int, index: Tensor | None, site_map: Tensor | None
) -> Tensor:
    """y `[T, C]` of contiguous rows x `[T, C]`, kernel `[49, C]`, bias `[C]`."""
    return _convolve(x, kernel, bias, h, w, index, site_map, False)


def input_gradient(dy: Tensor, kernel: Tensor, h: int, w: int, index: Tensor | None, site_map: Tensor | None) -> Tensor:
    """dx `[T, C]` in dy's dtype."""
    return _convolve(dy, kernel, None, h, w, index, site_map, True)


def parameter_gradients(dy: Tensor, x: Tensor, h: int, w: int, index: Tensor | None, site_map: Tensor | None) -> Tensor:
    """float32 `[50, C]`: the gradients of the 49 taps, then that of the bias."""
    if index is None:
        return sweep.parameter_gradients(dy, x, h, w)
    (t, c), bc = x.shape, min(64, _columns(x.shape[1]))
    p, across, unit = min(32, 1024 // bc), triton.cdiv(c, bc), math.gcd(c, 16)
    splits = min(triton.cdiv(t, p), triton.cdiv(8 * chip.of(x.device).processors, 7 * across))
    partial = x.new_empty((splits, 50, c), dtype=torch.float32)
    args = (dy, x, index, site_map, partial, t, c // unit, h, w)
    sizes = dict(UNIT=unit, P=p, BC=bc)
    launch(parameters_kernel, (7, across, splits), *args, num_warps=4, **sizes)
    return partial.sum(0)
