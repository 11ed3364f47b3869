"""Depthwise convolution and LayerNorm in one Triton kernel: a program holds all channels of its rows. The one for dense
planes is sparse_dwconv's, as are the convolution's gradients. LayerNorm's take the statistics again from z."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._dwconv import triton_kernels as dwconv
from .._dwconv import triton_sweep as sweep
from .._layer_norm import triton_kernels as layer_norm
from .._triton import chip
from .._triton.gather import convolve
from .._triton.launch import launch

WIDEST_FUSED = 8192  # padded channels; more do not fit a program's registers: convolution and LayerNorm apart


@triton.jit
def forward_kernel(
    x_ptr,  # [T, C]
    kernel_ptr,  # [49, C]
    bias_ptr,  # [C] or None
    ln_weight_ptr,  # [C]
    ln_bias_ptr,  # [C]
    y_ptr,  # [T, C]
    z_ptr,  # [T, C] or None: LayerNorm's input
    index_ptr,  # int64 [T]
    map_ptr,  # int32 [N, H, W]
    T,
    units,
    H,
    W,
    eps,
    UNIT: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    C = units * UNIT
    first = tl.program_id(0) * P
    rows, columns = first + tl.arange(0, P), tl.arange(0, BC)
    valid = columns < C
    mask = (rows < T)[:, None] & valid[None, :]
    z = convolve(x_ptr, kernel_ptr, bias_ptr, index_ptr, map_ptr, rows, columns, T, C, H, W, False, P, BC)
    at = first.to(tl.int64) * C + (tl.arange(0, P)[:, None] * C + columns[None, :])
    if z_ptr is not None:
        tl.store(z_ptr + at, z, mask=mask)
    d = tl.where(valid[None, :], z - tl.sum(z, 1)[:, None] / C, 0.0)  # z is zero in the padding
    rstd = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + eps)
    weight = tl.load(ln_weight_ptr + columns, mask=valid, other=0.0).to(tl.float32)
    bias = tl.load(ln_bias_ptr + columns, mask=valid, other=0.0).to(tl.float32)
    tl.store(y_ptr + at, d * rstd[:, None] * weight[None, :] + bias[None, :], mask=mask)


@triton.jit
def norm_backward_kernel(
    dy_ptr,  # [T, C]
    z_ptr,  # [T, C]
    weight_ptr,  # [C]
    dz_ptr,  # [T, C]
    partial_ptr,  # [programs, 2, C]: sums of dy zhat and of dy
    T,
    units,
    eps,
    UNIT: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    C = units * UNIT
    columns = tl.arange(0, BC)
    valid = columns < C
    weight = tl.load(weight_ptr + columns, mask=valid, other=0.0).to(tl.float32)[None, :]
    dweight = tl.zeros((P, BC), tl.float32)
    dbias = tl.zeros((P, BC), tl.float32)
    size = tl.full((), P, tl.int64) * C
    for tile in range(tl.program_id(0), tl.cdiv(T, P), tl.num_programs(0)):
        mask = (tile * P + tl.arange(0, P) < T)[:, None] & valid[None, :]
        at = tile * size + (tl.arange(0, P)[:, None] * C + columns[None, :])
        z = tl.load(z_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
        d = tl.where(valid[None, :], z - tl.sum(z, 1)[:, None] / C, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + eps)[:, None]
        zhat = d * rstd
        dweight += dy * zhat
        dbias += dy
        dy *= weight
        along = tl.sum(dy * zhat, 1)[:, None] / C
        tl.store(dz_ptr + at, rstd * (dy - tl.sum(dy, 1)[:, None] / C - zhat * along), mask=mask)
    out = partial_ptr + tl.program_id(0).to(tl.int64) * (2 * C) + columns
    tl.store(out, tl.sum(dweight, 0), mask=valid)
    tl.store(out + C, tl.sum(dbias, 0), mask=valid)


def _width(c: int) -> int:
    return max(16, triton.next_power_of_2(c))


def _forward(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    h: int,
    w: int,
    index: Tensor | None,
    site_map: Tensor | None,
    train: bool,
) -> tuple[Tensor, Tensor | None]:
    (t, c), width, unit = x.shape, _width(x.shape[1]), math.gcd(x.shape[1], 16)
    if width > (sweep.WIDEST_NORM if index is None else WIDEST_FUSED):
        z = dwconv.forward(x, kernel, bias, h, w, index, site_map)
        return layer_norm.forward(z, ln_weight, ln_bias, eps)[0], z
    y, z = torch.empty_like(x), torch.empty_like(x) if train else None
    if index is None:
        sweep.convolve(x, kernel, bias, h, w, z=z, norm=(ln_weight, ln_bias, eps, y))
        return y, z
    # 32 elements a thread use each weight for several rows, and long tiles share their neighbours' loads; small
    # problems need the programs more.
    small = triton.cdiv(t * width, 4096) < 2 * chip.of(x.device).processors
    p = max(1, min(64, (1024 if small else 4096 if width < 2048 else 8192) // width))
    warps = min(16, max(4, p * width // (512 if small else 1024)))
    args = (x, kernel, bias, ln_weight, ln_bias, y, z, index, site_map, t, c // unit, h, w, eps)
    sizes = dict(UNIT=unit, P=p, BC=width)
    launch(forward_kernel, (triton.cdiv(t, p),), *args, num_warps=warps, **sizes)
    return y, z


def forward(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    h: int,
    w: int,
    index: Tensor | None,
    site_map: Tensor | None,
) -> Tensor:
    """y `[T, C]` of contiguous rows x `[T, C]`, kernel `[49, C]`, bias, ln_weight, ln_bias `[C]`."""
    return _forward(x, kernel, bias, ln_weight, ln_bias, eps, h, w, index, site_map, train=False)[0]


def forward_train(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    h: int,
    w: int,
    index: Tensor | None,
    site_map: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """:func:`forward`'s y, and LayerNorm's input z `[T, C]` in x's dtype."""
    y, z = _forward(x, kernel, bias, ln_weight, ln_bias, eps, h, w, index, site_map, train=True)
    assert z is not None
    return y, z


def norm_backward(dy: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """dz `[T, C]` in z's dtype and float32 `[2, C]`, the gradients of LayerNorm's weight and bias."""
    (t, c), width, unit = z.shape, _width(z.shape[1]), math.gcd(z.shape[1], 16)
    if width > WIDEST_FUSED:
        dz, dweight, dbias = layer_norm.backward(dy, z, weight, eps, *layer_norm.statistics(z, eps))
        return dz, torch.stack((dweight, dbias))
    p = max(1, min(64, 2048 // width))
    programs = min(triton.cdiv(t, p), 4 * chip.of(z.device).processors)
    dz, partial = torch.empty_like(z), z.new_empty((programs, 2, c), dtype=torch.float32)
    args = (dy, z, weight, dz, partial, t, c // unit, eps)
    launch(
        norm_backward_kernel, (programs,), *args, num_warps=min(16, max(4, p * width // 512)), UNIT=unit, P=p, BC=width
    )
    return dz, partial.sum(0)
