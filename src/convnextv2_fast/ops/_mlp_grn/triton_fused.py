"""The second pass of mlp_grn's recompute strategy: both GEMMs in one kernel. `triton_launch` calls it.

A row tile's whole result stays in registers, C cut into powers of two (96 = 64 + 32) since Triton's ranges are such.
"""

import triton
import triton.language as tl

from .._triton.activation import gelu, rounded
from .._triton.group_sums import groups_of_rows
from .triton_products import finish, vector


@triton.jit
def _piece(u_ptr, row0, T, C, FIRST: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr):
    """Channels FIRST .. FIRST + WIDTH of a row tile."""
    local, c = tl.arange(0, BM), FIRST + tl.arange(0, WIDTH)
    at = row0.to(tl.int64) * C + local[:, None] * C + c[None, :]
    return tl.load(u_ptr + at, mask=(row0 + local < T)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def _w1_piece(w1_ptr, k0, k, K, C, TMA: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    """Those channels of `w1'` for the hidden channels k `[BK]`, which begin at k0."""
    if TMA:
        return w1_ptr.load([k0, FIRST]).T
    else:
        c = FIRST + tl.arange(0, WIDTH)
        return tl.load(w1_ptr + k[None, :] * C + c[:, None], mask=(k < K)[None, :] & (c < C)[:, None], other=0.0)


@triton.jit
def _w2_piece(w2_ptr, k0, k, K, C, TMA: tl.constexpr, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    if TMA:
        return w2_ptr.load([FIRST, k0]).T
    else:
        c = FIRST + tl.arange(0, WIDTH)
        return tl.load(w2_ptr + c[None, :] * K + k[:, None], mask=(k < K)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def fused_kernel(
    u_ptr,  # [T, C]
    w1_0,  # [K, C], a pointer; where TMA, a descriptor of tiles [BK, C0]
    w1_1,  # of tiles [BK, C1]
    w1_2,
    b1_ptr,  # [K]
    w2_0,  # [C, K], a pointer; where TMA, a descriptor of tiles [C0, BK]
    w2_1,
    w2_2,
    b2_ptr,  # [C]
    scale_ptr,  # [G, K]
    beta_ptr,  # [K]
    row_scale_ptr,
    residual_ptr,
    out_ptr,  # [T, C]
    row_group_ptr,
    T,
    K,
    rows_per_group,
    run,
    TMA: tl.constexpr,
    FAST: tl.constexpr,
    PTX: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    C: tl.constexpr,
    C0: tl.constexpr,
    C1: tl.constexpr,
    C2: tl.constexpr,
):
    """Both GEMMs of a row tile: the hidden activations are computed again, BK at a time, and never leave the chip.

    C0 + C1 + C2 >= C are powers of two; C1 and C2 may be 0."""
    precision: tl.constexpr = "ieee" if IEEE else "tf32"
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    row0 = tl.program_id(0) * BM
    group = groups_of_rows(row0 + tl.arange(0, BM), T, row_group_ptr, rows_per_group, RAGGED)
    first = tl.min(group, 0)
    one = first == tl.max(group, 0)
    of_group = group.to(tl.int64)[:, None] * K
    u0 = _piece(u_ptr, row0, T, C, 0, C0, BM)
    acc0 = tl.zeros([BM, C0], tl.float32)
    if C1 > 0:
        u1 = _piece(u_ptr, row0, T, C, C0, C1, BM)
        acc1 = tl.zeros([BM, C1], tl.float32)
    if C2 > 0:
        u2 = _piece(u_ptr, row0, T, C, C0 + C1, C2, BM)
        acc2 = tl.zeros([BM, C2], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        h = tl.dot(u0, _w1_piece(w1_0, k0, k, K, C, TMA, 0, C0), input_precision=precision)
        if C1 > 0:
            h = tl.dot(u1, _w1_piece(w1_1, k0, k, K, C, TMA, C0, C1), h, input_precision=precision)
        if C2 > 0:
            h = tl.dot(u2, _w1_piece(w1_2, k0, k, K, C, TMA, C0 + C1, C2), h, input_precision=precision)
        a = rounded(gelu(h + vector(b1_ptr, k, k < K), FAST, PTX), dtype, PTX).to(tl.float32)
        beta = vector(beta_ptr, k, k < K)
        if one:
            g = a * tl.load(scale_ptr + first.to(tl.int64) * K + k, mask=k < K, other=0.0)[None, :] + beta
        else:
            g = a * tl.load(scale_ptr + of_group + k[None, :], mask=(k < K)[None, :], other=0.0) + beta
        g = rounded(g, dtype, PTX)
        acc0 = tl.dot(g, _w2_piece(w2_0, k0, k, K, C, TMA, 0, C0), acc0, input_precision=precision)
        if C1 > 0:
            acc1 = tl.dot(g, _w2_piece(w2_1, k0, k, K, C, TMA, C0, C1), acc1, input_precision=precision)
        if C2 > 0:
            acc2 = tl.dot(g, _w2_piece(w2_2, k0, k, K, C, TMA, C0 + C1, C2), acc2, input_precision=precision)
    c = tl.arange(0, C0)
    finish(acc0, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)
    if C1 > 0:
        c = C0 + tl.arange(0, C1)
        finish(acc1, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)
    if C2 > 0:
        c = C0 + C1 + tl.arange(0, C2)
        finish(acc2, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)
