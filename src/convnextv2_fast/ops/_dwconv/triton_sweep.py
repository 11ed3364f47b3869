"""The depthwise convolution of dense planes in Triton, with LayerNorm if wanted, and its parameters' gradients.

`_triton.sweep` says how; launches are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton import autotune
from .._triton import chip as chips
from .._triton.launch import launch
from .._triton.sweep import (
    add_products,
    add_row,
    channels_of,
    load_shifted,
    load_taps,
    load_vector,
    row_pointer,
    strip_of,
)
from .._triton.tiles import lookup

WIDEST_NORM = 512  # channels of a strip that LayerNorm sees whole, in registers


@triton.jit
def _emit(
    z, n, y, x, columns, C, H, W, eps, bias_ptr, ln_weight_ptr, ln_bias_ptr, z_ptr, out_ptr
):  # fmt: skip
    """Stores a row of a strip: the convolution's result z, bias added, and its LayerNorm."""
    live = columns < C
    if bias_ptr is not None:
        z += load_vector(bias_ptr, columns, C)
    mask = (x < W)[:, None] & live[None, :]
    at = (x * C)[:, None] + columns[None, :]
    if z_ptr is not None:
        tl.store(row_pointer(z_ptr, n, y, H, W, C) + at, z, mask=mask)
    if out_ptr is not None:
        d = tl.where(live[None, :], z - tl.sum(z, 1)[:, None] / C, 0.0)  # z is zero in the padding
        rstd = 1.0 / tl.sqrt(tl.sum(d * d, 1) / C + eps)
        out = d * rstd[:, None] * load_vector(ln_weight_ptr, columns, C) + load_vector(ln_bias_ptr, columns, C)
        tl.store(row_pointer(out_ptr, n, y, H, W, C) + at, out, mask=mask)


# Sizes of the plane are not specialised: a W of 1 would be no tensor, and alignment changes what fits the registers.
@triton.jit(do_not_specialize=["H", "W", "S"])
def sweep_kernel(
    x_ptr,  # [N, H, W, C]
    kernel_ptr,  # [49, C]
    bias_ptr,  # [C] or None
    ln_weight_ptr,  # [C], read if out
    ln_bias_ptr,  # [C]
    z_ptr,  # [N, H, W, C] or None: the convolution
    out_ptr,  # [N, H, W, C] or None: its LayerNorm, which takes all channels in one strip
    H,
    W,
    S,
    eps,
    C: tl.constexpr,
    FLIP: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """One strip. FLIP: the transposed convolution, the gradient by x."""
    n, first, end, x0 = strip_of(tl.program_id(0), H, W, S, P)
    columns = channels_of(tl.program_id(1), BC)
    x = x0 + tl.arange(0, P)
    zero = tl.zeros([P, BC], tl.float32)
    taps = load_taps(kernel_ptr, columns, C, FLIP)
    sums = (zero, zero, zero, zero, zero, zero, zero)  # of rows y - 3 to y + 3
    below = tl.minimum(end + 3, H)
    for y in tl.range(tl.maximum(first - 3, 0), below, disable_licm=True):
        sums = add_row(sums, taps, row_pointer(x_ptr, n, y, H, W, C), x, columns, C, W)
        if y - 3 >= first:
            _emit(sums[0], n, y - 3, x, columns, C, H, W, eps, bias_ptr, ln_weight_ptr, ln_bias_ptr, z_ptr, out_ptr)
        sums = (sums[1], sums[2], sums[3], sums[4], sums[5], sums[6], zero)
    for i in tl.static_range(3):  # the last rows of a plane have none below them
        y = below - 3 + i
        if (y >= first) & (y < end):
            _emit(sums[i], n, y, x, columns, C, H, W, eps, bias_ptr, ln_weight_ptr, ln_bias_ptr, z_ptr, out_ptr)


@triton.jit(do_not_specialize=["strips", "H", "W", "S"])
def parameters_kernel(
    dy_ptr,  # [N, H, W, C]
    x_ptr,  # [N, H, W, C]
    partial_ptr,  # [programs, 50, C]: the taps, then the bias
    strips,
    H,
    W,
    S,
    C: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """The gradients of all taps over this program's share of the strips, in one pass over dy and x."""
    columns = channels_of(tl.program_id(1), BC)
    zero = tl.zeros([P, BC], tl.float32)
    grads = ()
    for _ in tl.static_range(49):
        grads = grads + (zero,)
    dbias = zero
    for work in range(tl.program_id(0), strips, tl.num_programs(0)):
        n, first, end, x0 = strip_of(work, H, W, S, P)
        x = x0 + tl.arange(0, P)
        window = (zero, zero, zero, zero, zero, zero)  # dy's rows y - 3 to y + 2, this strip's only
        for y in range(first - 3, 0):  # above the plane
            dy = load_shifted(row_pointer(dy_ptr, n, y + 3, H, W, C), x, columns, 0, C, tl.where(y + 3 < end, W, 0))
            dbias += dy
            window = (window[1], window[2], window[3], window[4], window[5], dy)
        for y in tl.range(tl.maximum(first - 3, 0), tl.minimum(end + 3, H), disable_licm=True):
            dy = load_shifted(row_pointer(dy_ptr, n, y + 3, H, W, C), x, columns, 0, C, tl.where(y + 3 < end, W, 0))
            dbias += dy
            grads = add_products(grads, window + (dy,), row_pointer(x_ptr, n, y, H, W, C), x, columns, C, W)
            window = (window[1], window[2], window[3], window[4], window[5], dy)
    out = partial_ptr + tl.program_id(0).to(tl.int64) * (50 * C) + columns
    for tap in tl.static_range(49):
        tl.store(out + tap * C, tl.sum(grads[tap], 0), mask=columns < C)
    tl.store(out + 49 * C, tl.sum(dbias, 0), mask=columns < C)


@dataclass(frozen=True)
class Strip:
    """`columns` of the plane by `channels`, a lane all columns of two channels; 0 channels: all of them."""

    columns: int
    channels: int


def _rows(x: Tensor, planes: int, h: int, w: int, columns: int, warps: int) -> tuple[int, int]:
    """Rows of a strip, and how many strips: whole columns of the plane, or less where a multiprocessor would have less
    than four warps (`warps`: of the strips of all channels)."""
    wanted, rows = 4 * chips.of(x.device).processors, max(h, 1)
    across = planes * triton.cdiv(w, columns)
    while rows > 7 and across * triton.cdiv(h, rows) * warps < wanted:
        rows = triton.cdiv(rows, 2)
    return rows, across * triton.cdiv(h, rows)


def _pick(kernel: str, x: Tensor, w: int, run: Callable[[Strip], object]) -> Strip:
    """The strip of "plain", "norm" (one pass with LayerNorm), "train" (that, z kept too) or "params"."""
    chip, c = chips.of(x.device), x.shape[1]
    default = Strip(*lookup(f"dwconv {kernel}", chip, c, x.dtype))
    others = [Strip(columns, default.channels) for columns in (2, 4, 8)]
    key = f"dwconv {kernel} C={c} W={w} {str(x.dtype).removeprefix('torch.')}"
    return autotune.pick(key, chip, default, lambda: others, run) if x.numel() else default


def convolve(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    h: int,
    w: int,
    *,
    flip: bool = False,
    z: Tensor | None = None,
    norm: tuple[Tensor, Tensor, float, Tensor] | None = None,
) -> None:
    """The convolution of planes `[h, w]` of rows x `[T, C]`, to z, and by `norm` its LayerNorm.

    Args:
        norm: LayerNorm's weight, bias and eps, and its result `[T, C]`; C up to WIDEST_NORM.
    """
    c, planes = x.shape[1], x.shape[0] // max(h * w, 1)
    ln_weight, ln_bias, eps, out = norm or (None, None, 0.0, None)

    def run(strip: Strip) -> None:
        bc = strip.channels or max(16, triton.next_power_of_2(c))
        chunks, warps = triton.cdiv(c, bc), max(1, bc // 64)
        rows, strips = _rows(x, planes, h, w, strip.columns, chunks * warps)
        args = (x, kernel, bias, ln_weight, ln_bias, z, out, h, w, rows, eps)
        sizes = dict(C=c, FLIP=flip, P=strip.columns, BC=bc)
        launch(sweep_kernel, (strips, chunks), *args, num_warps=warps, **sizes)

    run(_pick("plain" if out is None else "norm" if z is None else "train", x, w, run))


def parameter_gradients(dy: Tensor, x: Tensor, h: int, w: int) -> Tensor:
    """float32 `[50, C]`: the gradients of the 49 taps, then that of the bias."""
    c, planes = x.shape[1], x.shape[0] // max(h * w, 1)

    def run(strip: Strip) -> Tensor:
        bc, columns = strip.channels, strip.columns
        chunks, warps = triton.cdiv(c, bc), max(1, columns * bc // 64)  # a lane: one column of two channels, 98 sums
        rows, strips = _rows(x, planes, h, w, columns, chunks * warps)
        programs = min(strips, triton.cdiv(3 * chips.of(x.device).processors, chunks))
        partial = x.new_empty((programs, 50, c), dtype=torch.float32)
        args = (dy, x, partial, strips, h, w, rows)
        launch(parameters_kernel, (programs, chunks), *args, num_warps=warps, C=c, P=columns, BC=bc)
        return partial

    return run(_pick("params", x, w, run)).sum(0)
