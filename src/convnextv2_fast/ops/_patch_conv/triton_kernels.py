"""Patch convolution in Triton: a matrix product over gathered rows; gather and scatter of the blocks for backward.

Columns j of a block count (ky, kx, cin). They are walked in steps of BK: one tap at a time, Cin padded to whole steps,
or, where Cin is small (FLAT), across taps. Tables are those of `gather.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .._layer_norm.triton_kernels import statistics
from .._triton import chip, tf32
from .._triton.launch import launch
from .gather import Gather

NO_TABLE, SITES, CHILDREN = 0, 1, 2


@triton.jit
def first_sources(table_ptr, t, T, H, W, K: tl.constexpr, TABLE: tl.constexpr):
    """Top left source row of each result row t, `[BM]`; with a table of children, where its list starts."""
    if TABLE == 2:
        return t.to(tl.int64) * (K * K)
    else:
        site = t
        if TABLE == 1:
            site = tl.load(table_ptr + t, mask=t < T, other=0).to(tl.int32)
        h, w = H // K, W // K
        y = site // w
        return ((y // h * H + y % h * K) * W + site % w * K).to(tl.int64)


@triton.jit
def columns_of(step, CIN: tl.constexpr, K: tl.constexpr, FLAT: tl.constexpr, BK: tl.constexpr):
    """Columns j of one step and which of them exist, both `[BK]`."""
    if FLAT:
        j = step * BK + tl.arange(0, BK)
        return j, j < K * K * CIN
    else:
        per_tap: tl.constexpr = (CIN + BK - 1) // BK
        c = step % per_tap * BK + tl.arange(0, BK)
        return step // per_tap * CIN + c, c < CIN


@triton.jit
def sources(
    table_ptr,
    first,
    there,
    step,
    W,
    CIN: tl.constexpr,
    K: tl.constexpr,
    TABLE: tl.constexpr,
    FLAT: tl.constexpr,
    BK: tl.constexpr,
):
    """For the columns of one step: source rows and their validity, `[BM, BK]` if FLAT else `[BM, 1]`; channels
    `[1, BK]`; offsets into x and their validity, `[BM, BK]`."""
    if FLAT:
        j = (step * BK + tl.arange(0, BK))[None, :]
        tap = j // CIN
        c = j % CIN
        valid = there[:, None] & (j < K * K * CIN)
    else:
        per_tap: tl.constexpr = (CIN + BK - 1) // BK
        tap = step // per_tap
        c = (step % per_tap * BK + tl.arange(0, BK))[None, :]
        valid = there[:, None]
    if TABLE == 2:
        row = tl.load(table_ptr + first[:, None] + tap, mask=valid, other=-1)
        valid = row >= 0
        at = row * CIN + c
    else:
        row = first[:, None] + (tap // K * W + tap % K)
        if FLAT:  # the pixels of one ky are adjacent: runs of K * CIN elements
            at = first[:, None] * CIN + (j // (K * CIN) * (W * CIN) + j % (K * CIN))
        else:
            at = row * CIN + c
    return row, valid, c, at, valid & (c < CIN)


@triton.jit
def load_blocks(
    x_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    mean_ptr,
    rstd_ptr,
    table_ptr,
    first,
    there,
    step,
    W,
    CIN: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    TABLE: tl.constexpr,
    FLAT: tl.constexpr,
    BK: tl.constexpr,
):
    """One step of the gathered blocks, `[BM, BK]` in x's dtype, normalised if NORM; zero where absent."""
    row, valid, c, at, inside = sources(table_ptr, first, there, step, W, CIN, K, TABLE, FLAT, BK)
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if NORM:
        mean = tl.load(mean_ptr + row, mask=valid, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=valid, other=0.0)
        y = (x.to(tl.float32) - mean) * rstd * tl.load(norm_weight_ptr + c, mask=c < CIN, other=0.0).to(tl.float32)
        y += tl.load(norm_bias_ptr + c, mask=c < CIN, other=0.0).to(tl.float32)
        x = tl.where(inside, y, 0.0).to(x.dtype)
    return x


@triton.jit
def conv_kernel(
    x_ptr,  # [S, CIN]
    w_ptr,  # [K * K * CIN, COUT], x's dtype
    bias_ptr,  # [COUT] or None
    norm_weight_ptr,  # [CIN], read if NORM, as the next three
    norm_bias_ptr,  # [CIN]
    mean_ptr,  # [S]
    rstd_ptr,  # [S]
    table_ptr,
    z_ptr,  # [T, COUT]
    T,
    COUT,
    H,
    W,
    CIN: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    TABLE: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    across = tl.cdiv(COUT, BN)  # neighbouring programs share rows of x
    tile = tl.program_id(0) // across
    columns = tl.program_id(0) % across * BN + tl.arange(0, BN)
    t = tile * BM + tl.arange(0, BM)
    first = first_sources(table_ptr, t, T, H, W, K, TABLE)
    STEPS: tl.constexpr = tl.cdiv(K * K * CIN, BK) if FLAT else K * K * tl.cdiv(CIN, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(0, STEPS):
        x = load_blocks(
            x_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            mean_ptr,
            rstd_ptr,
            table_ptr,
            first,
            t < T,
            step,
            W,
            CIN,
            K,
            NORM,
            TABLE,
            FLAT,
            BK,
        )
        j, real = columns_of(step, CIN, K, FLAT, BK)
        inside = real[:, None] & (columns < COUT)[None, :]
        w = tl.load(w_ptr + j[:, None] * COUT + columns[None, :], mask=inside, other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=columns < COUT, other=0.0).to(tl.float32)[None, :]
    out = z_ptr + (tile * BM).to(tl.int64) * COUT + (tl.arange(0, BM)[:, None] * COUT + columns[None, :])
    tl.store(out, acc, mask=(t < T)[:, None] & (columns < COUT)[None, :])


@triton.jit
def gather_kernel(
    x_ptr,  # [S, CIN]
    norm_weight_ptr,  # [CIN], read if NORM, as the next three
    norm_bias_ptr,  # [CIN]
    mean_ptr,  # [S]
    rstd_ptr,  # [S]
    table_ptr,
    out_ptr,  # [T, K * K * CIN]
    T,
    H,
    W,
    CIN: tl.constexpr,
    K: tl.constexpr,
    NORM: tl.constexpr,
    TABLE: tl.constexpr,
    FLAT: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    J: tl.constexpr = K * K * CIN
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    step = tl.program_id(1)
    first = first_sources(table_ptr, t, T, H, W, K, TABLE)
    x = load_blocks(
        x_ptr,
        norm_weight_ptr,
        norm_bias_ptr,
        mean_ptr,
        rstd_ptr,
        table_ptr,
        first,
        t < T,
        step,
        W,
        CIN,
        K,
        NORM,
        TABLE,
        FLAT,
        BK,
    )
    j, real = columns_of(step, CIN, K, FLAT, BK)
    out = out_ptr + (tl.program_id(0) * BM).to(tl.int64) * J + (tl.arange(0, BM)[:, None] * J + j[None, :])
    tl.store(out, x, mask=(t < T)[:, None] & real[None, :])


@triton.jit
def scatter_kernel(
    blocks_ptr,  # [T, K * K * CIN]
    table_ptr,
    out_ptr,  # [S, CIN]
    T,
    H,
    W,
    CIN: tl.constexpr,
    K: tl.constexpr,
    TABLE: tl.constexpr,
    FLAT: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    J: tl.constexpr = K * K * CIN
    t = tl.program_id(0) * BM + tl.arange(0, BM)
    step = tl.program_id(1)
    first = first_sources(table_ptr, t, T, H, W, K, TABLE)
    _row, _valid, _c, at, inside = sources(table_ptr, first, t < T, step, W, CIN, K, TABLE, FLAT, BK)
    j, _real = columns_of(step, CIN, K, FLAT, BK)
    source = blocks_ptr + (tl.program_id(0) * BM).to(tl.int64) * J + (tl.arange(0, BM)[:, None] * J + j[None, :])
    tl.store(out_ptr + at, tl.load(source, mask=inside, other=0.0), mask=inside)


def _table(gather: Gather) -> int:
    return NO_TABLE if gather.table is None else SITES if gather.table.ndim == 1 else CHILDREN


def _columns(c: int, k: int, widest: int) -> tuple[bool, int, int]:
    """FLAT, BK and the number of steps: one tap at a time looks rows up once, but pads Cin; least padding wins."""
    if c < 32:
        return True, 32, triton.cdiv(k * k * c, 32)
    bk = min((b for b in (128, 64, 32) if b <= widest), key=lambda b: triton.cdiv(c, b) * b)
    return False, bk, k * k * triton.cdiv(c, bk)


def forward(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    table: Tensor | None,
    rows: int,
    height: int,
    width: int,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`(z [T', Cout], mean [S], rstd [S])` of contiguous rows x `[S, Cin]`; mean and rstd are empty without a norm."""
    gather, (c_in, c_out) = Gather(table, rows, height, width, k), (x.shape[1], w.shape[1])
    norm = norm_weight is not None
    mean, rstd = statistics(x if norm else x[:0], eps)
    z = x.new_empty((rows, c_out))
    wide = x.element_size() == 4  # float32 products need four times the registers
    bm, bn = (64, 64) if wide else (128, min(128, max(16, triton.next_power_of_2(c_out))))
    roomy = chip.of(x.device).shared >= 128 << 10  # for three stages of BK 64
    flat, bk, _ = _columns(c_in, k, 64 if roomy and not wide else 32)
    launch(
        conv_kernel,
        (triton.cdiv(rows, bm) * triton.cdiv(c_out, bn),),
        x,
        w,
        bias,
        norm_weight,
        norm_bias,
        mean,
        rstd,
        table,
        z,
        rows,
        c_out,
        height,
        width,
        num_warps=8,
        num_stages=2 if flat or wide else 3,
        CIN=c_in,
        K=k,
        NORM=norm,
        TABLE=_table(gather),
        FLAT=flat,
        PRECISION="tf32" if tf32(x) else "ieee",
        BM=bm,
        BN=bn,
        BK=bk,
    )
    return z, mean, rstd


def blocks(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    table: Tensor | None,
    rows: int,
    height: int,
    width: int,
    k: int,
) -> Tensor:
    """The gathered (and normalised) blocks `[T', k*k*Cin]` of contiguous rows x `[S, Cin]`."""
    gather, c = Gather(table, rows, height, width, k), x.shape[1]
    out = x.new_empty((rows, k * k * c))
    bm, (flat, bk, steps) = 32, _columns(c, k, 128)
    grid = (triton.cdiv(rows, bm), steps)
    args = (x, norm_weight, norm_bias, mean, rstd, table, out, rows, height, width)
    sizes = dict(CIN=c, K=k, NORM=norm_weight is not None, TABLE=_table(gather), FLAT=flat, BM=bm, BK=bk)
    launch(gather_kernel, grid, *args, **sizes)
    return out


def scatter(
    blocks: Tensor, sources: int, covers: bool, table: Tensor | None, rows: int, height: int, width: int, k: int
) -> Tensor:
    """The inverse of the gather: rows `[S, Cin]` from contiguous blocks `[T', k*k*Cin]`, zero where none reads them."""
    gather, c = Gather(table, rows, height, width, k), blocks.shape[1] // (k * k)
    out = (blocks.new_empty if covers else blocks.new_zeros)((sources, c))
    bm, (flat, bk, steps) = 32, _columns(c, k, 128)
    grid = (triton.cdiv(rows, bm), steps)
    sizes = dict(CIN=c, K=k, TABLE=_table(gather), FLAT=flat, BM=bm, BK=bk)
    launch(scatter_kernel, grid, blocks, table, out, rows, height, width, **sizes)
    return out
