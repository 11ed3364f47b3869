"""Linear, GELU, GRN, Linear in Triton: the device code. `triton_launch` puts the kernels together.

Rows T, channels C in and C_OUT out, hidden K. `fused_kernel` keeps a row tile's whole result in registers, C cut into
powers of two (96 = 64 + 32) since Triton's ranges are such; the others are plain tiles of their result. Those
take C as a multiple of UNIT: Triton sees the alignment of 16s only, and rows of 40 halves are aligned all the same.
"""

import triton
import triton.language as tl

from .._triton.activation import gelu, gelu_and_grad
from .._triton.group_sums import groups_of_rows, store_group_sums


@triton.jit
def _product_t(
    a_ptr, b_ptr, row0, col0, T, N, D, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, IEEE: tl.constexpr
):
    """Tile of `a b'`: a `[T, D]`, b `[N, D]`."""
    a_rows = tl.arange(0, BM)
    b_rows = col0 + tl.arange(0, BN)
    a_at = a_ptr + row0.to(tl.int64) * D + a_rows[:, None] * D
    b_at = b_ptr + b_rows.to(tl.int64)[None, :] * D
    a_live, b_live = (row0 + a_rows < T)[:, None], (b_rows < N)[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        a = tl.load(a_at + d[None, :], mask=a_live & (d < D)[None, :], other=0.0)
        b = tl.load(b_at + d[:, None], mask=b_live & (d < D)[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee" if IEEE else "tf32")
    return acc


@triton.jit
def _product(
    a_ptr, b_ptr, row0, col0, T, N, D, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, IEEE: tl.constexpr
):
    """Tile of `a b`: a `[T, D]`, b `[D, N]`."""
    a_rows = tl.arange(0, BM)
    columns = col0 + tl.arange(0, BN)
    a_at = a_ptr + row0.to(tl.int64) * D + a_rows[:, None] * D
    a_live, b_live = (row0 + a_rows < T)[:, None], (columns < N)[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for d0 in range(0, D, BD):
        d = d0 + tl.arange(0, BD)
        a = tl.load(a_at + d[None, :], mask=a_live & (d < D)[None, :], other=0.0)
        b = tl.load(b_ptr + d.to(tl.int64)[:, None] * N + columns[None, :], mask=b_live & (d < D)[:, None], other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee" if IEEE else "tf32")
    return acc


@triton.jit
def _vector(ptr, at, live):
    """A float32 row `[1, n]` of a parameter."""
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)[None, :]


@triton.jit
def hidden_kernel(
    u_ptr,  # [T, C]
    w1_ptr,  # [K, C]
    b1_ptr,  # [K]
    a_ptr,  # [T, K], written if STORE
    partial_ptr,  # slots of sum a^2
    row_group_ptr,
    T,
    units,  # C / UNIT
    K,
    rows_per_group,
    UNIT: tl.constexpr,
    STORE: tl.constexpr,
    FAST: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """GEMM 1 with its epilogue: bias, GELU, sums of squares per group and column."""
    C = units * UNIT
    blocks = tl.cdiv(K, BN)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    columns = block * BN + tl.arange(0, BN)
    h = _product_t(u_ptr, w1_ptr, tile * BM, block * BN, T, K, C, BM, BN, BD, IEEE)
    a = gelu(h + _vector(b1_ptr, columns, columns < K), FAST).to(u_ptr.dtype.element_ty)
    rows = tile * BM + tl.arange(0, BM)
    mask = (rows < T)[:, None] & (columns < K)[None, :]
    if STORE:
        at = (tile * BM).to(tl.int64) * K + tl.arange(0, BM)[:, None] * K + columns[None, :]
        tl.store(a_ptr + at, a, mask=mask)
    group = groups_of_rows(rows, T, row_group_ptr, rows_per_group, RAGGED)
    a = tl.where(mask, a.to(tl.float32), 0.0)
    store_group_sums(partial_ptr, a * a, group, tile, columns, K)


@triton.jit
def _finish(acc, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, columns, T, C_OUT, run, BM: tl.constexpr):
    """Bias, drop path and residual of a result tile, and its store."""
    local = tl.arange(0, BM)
    rows = row0 + local
    mask = (rows < T)[:, None] & (columns < C_OUT)[None, :]
    at = row0.to(tl.int64) * C_OUT + local[:, None] * C_OUT + columns[None, :]
    y = acc + _vector(b2_ptr, columns, columns < C_OUT)
    if row_scale_ptr is not None:
        y *= tl.load(row_scale_ptr + rows // run, mask=rows < T, other=0.0).to(tl.float32)[:, None]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y, mask=mask)


@triton.jit
def _scaled_product(
    a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT,
    ONE_GROUP: tl.constexpr, IEEE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Tile of `(a scale + beta) w2'`; with ONE_GROUP all rows are of one group and share a row of the scale."""
    local = tl.arange(0, BM)
    columns = col0 + tl.arange(0, BN)
    a_at = a_ptr + row0.to(tl.int64) * K + local[:, None] * K
    w_at = w2_ptr + columns.to(tl.int64)[None, :] * K
    live, w_live = (row0 + local < T)[:, None], (columns < C_OUT)[None, :]
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        a = tl.load(a_at + k[None, :], mask=live & (k < K)[None, :], other=0.0)
        w = tl.load(w_at + k[:, None], mask=w_live & (k < K)[:, None], other=0.0)
        beta = _vector(beta_ptr, k, k < K)
        if ONE_GROUP:
            scale = tl.load(scale_ptr + tl.max(group, 0).to(tl.int64) * K + k, mask=k < K, other=0.0)[None, :]
        else:
            at = group.to(tl.int64)[:, None] * K + k[None, :]
            scale = tl.load(scale_ptr + at, mask=live & (k < K)[None, :], other=0.0)
        g = (a.to(tl.float32) * scale + beta).to(a.dtype)
        acc = tl.dot(g, w, acc, input_precision="ieee" if IEEE else "tf32")
    return acc


@triton.jit
def output_kernel(
    a_ptr,  # [T, K]
    w2_ptr,  # [C_OUT, K]
    b2_ptr,  # [C_OUT]
    scale_ptr,  # [G, K]
    beta_ptr,  # [K]
    row_scale_ptr,  # [T / run] or None
    residual_ptr,  # [T, C_OUT] or None
    out_ptr,  # [T, C_OUT]
    row_group_ptr,
    T,
    K,
    units,  # C_OUT / UNIT
    rows_per_group,
    run,
    UNIT: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """GEMM 2: GRN on its operand as it is loaded; bias, drop path and residual in the epilogue."""
    C_OUT = units * UNIT
    blocks = tl.cdiv(C_OUT, BN)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row0, col0 = tile * BM, block * BN
    group = groups_of_rows(row0 + tl.arange(0, BM), T, row_group_ptr, rows_per_group, RAGGED)
    if tl.min(group, 0) == tl.max(group, 0):
        acc = _scaled_product(
            a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT, True, IEEE, BM, BN, BK
        )
    else:
        acc = _scaled_product(
            a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT, False, IEEE, BM, BN, BK
        )
    columns = col0 + tl.arange(0, BN)
    _finish(acc, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, columns, T, C_OUT, run, BM)


@triton.jit
def _piece(u_ptr, row0, T, C, FIRST: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr):
    """Channels FIRST .. FIRST + WIDTH of a row tile."""
    local, c = tl.arange(0, BM), FIRST + tl.arange(0, WIDTH)
    at = row0.to(tl.int64) * C + local[:, None] * C + c[None, :]
    return tl.load(u_ptr + at, mask=(row0 + local < T)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def _w1_piece(w1_ptr, k, K, C, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    c = FIRST + tl.arange(0, WIDTH)
    return tl.load(w1_ptr + k[None, :] * C + c[:, None], mask=(k < K)[None, :] & (c < C)[:, None], other=0.0)


@triton.jit
def _w2_piece(w2_ptr, k, K, C, FIRST: tl.constexpr, WIDTH: tl.constexpr):
    c = FIRST + tl.arange(0, WIDTH)
    return tl.load(w2_ptr + c[None, :] * K + k[:, None], mask=(k < K)[:, None] & (c < C)[None, :], other=0.0)


@triton.jit
def fused_kernel(
    u_ptr,  # [T, C]
    w1_ptr,  # [K, C]
    b1_ptr,  # [K]
    w2_ptr,  # [C, K]
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
    FAST: tl.constexpr,
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
    row0 = tl.program_id(0) * BM
    dtype: tl.constexpr = u_ptr.dtype.element_ty
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
        h = tl.dot(u0, _w1_piece(w1_ptr, k, K, C, 0, C0), input_precision=precision)
        if C1 > 0:
            h = tl.dot(u1, _w1_piece(w1_ptr, k, K, C, C0, C1), h, input_precision=precision)
        if C2 > 0:
            h = tl.dot(u2, _w1_piece(w1_ptr, k, K, C, C0 + C1, C2), h, input_precision=precision)
        a = gelu(h + _vector(b1_ptr, k, k < K), FAST).to(dtype).to(tl.float32)
        beta = _vector(beta_ptr, k, k < K)
        if one:
            g = a * tl.load(scale_ptr + first.to(tl.int64) * K + k, mask=k < K, other=0.0)[None, :] + beta
        else:
            g = a * tl.load(scale_ptr + of_group + k[None, :], mask=(k < K)[None, :], other=0.0) + beta
        g = g.to(dtype)
        acc0 = tl.dot(g, _w2_piece(w2_ptr, k, K, C, 0, C0), acc0, input_precision=precision)
        if C1 > 0:
            acc1 = tl.dot(g, _w2_piece(w2_ptr, k, K, C, C0, C1), acc1, input_precision=precision)
        if C2 > 0:
            acc2 = tl.dot(g, _w2_piece(w2_ptr, k, K, C, C0 + C1, C2), acc2, input_precision=precision)
    c = tl.arange(0, C0)
    _finish(acc0, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)
    if C1 > 0:
        c = C0 + tl.arange(0, C1)
        _finish(acc1, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)
    if C2 > 0:
        c = C0 + C1 + tl.arange(0, C2)
        _finish(acc2, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, c, T, C, run, BM)


@triton.jit
def backward_kernel(
    dy_ptr,  # [T, C_OUT], drop path applied
    u_ptr,  # [T, C]
    w1_ptr,  # [K, C]
    b1_ptr,  # [K]
    w2_ptr,  # [C_OUT, K]
    scale_ptr,  # [G, K], the rest is for SECOND
    factor_ptr,  # [G, K]
    beta_ptr,  # [K]
    h_ptr,  # [T, K]: h, kept by the first pass if KEEP; SECOND overwrites it by g = a scale + beta
    dg_ptr,  # [T, K]: dg, likewise; SECOND overwrites it by dh
    product_ptr,  # first pass: slots of sum dg a; SECOND: [tiles, K], column sums of dh
    sum_ptr,  # first pass: slots of sum dg
    row_group_ptr,
    T,
    units,  # C / UNIT
    K,
    units_out,  # C_OUT / UNIT
    rows_per_group,
    UNIT: tl.constexpr,
    SECOND: tl.constexpr,
    KEEP: tl.constexpr,
    FAST: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """A tile of the hidden gradients, from h = u w1' + b1 and dg = dy w2 computed again (or kept).

    The first pass takes the sums per group that GRN's gradient needs, the second has them and writes g and dh."""
    C, C_OUT = units * UNIT, units_out * UNIT
    blocks = tl.cdiv(K, BN)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row0, col0 = tile * BM, block * BN
    local, columns = tl.arange(0, BM), col0 + tl.arange(0, BN)
    live = columns < K
    mask = (row0 + local < T)[:, None] & live[None, :]
    at = row0.to(tl.int64) * K + local[:, None] * K + columns[None, :]
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    if SECOND and KEEP:
        h = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32)
        dg = tl.load(dg_ptr + at, mask=mask, other=0.0).to(tl.float32)
    else:
        h = _product_t(u_ptr, w1_ptr, row0, col0, T, K, C, BM, BN, BD, IEEE) + _vector(b1_ptr, columns, live)
        dg = _product(dy_ptr, w2_ptr, row0, col0, T, K, C_OUT, BM, BN, BD, IEEE)
    group = groups_of_rows(row0 + local, T, row_group_ptr, rows_per_group, RAGGED)
    if SECOND:
        a, slope = gelu_and_grad(h, FAST)
        of_group = group.to(tl.int64)[:, None] * K + columns[None, :]
        scale = tl.load(scale_ptr + of_group, mask=mask, other=0.0)
        factor = tl.load(factor_ptr + of_group, mask=mask, other=0.0)
        dh = tl.where(mask, (dg * scale + a * factor) * slope, 0.0)
        tl.store(h_ptr + at, a.to(dtype).to(tl.float32) * scale + _vector(beta_ptr, columns, live), mask=mask)
        tl.store(dg_ptr + at, dh, mask=mask)
        tl.store(product_ptr + tile.to(tl.int64) * K + columns, tl.sum(dh, 0), mask=live)
    else:
        if KEEP:
            tl.store(h_ptr + at, h, mask=mask)
            tl.store(dg_ptr + at, dg, mask=mask)
        a = tl.where(mask, gelu(h, FAST), 0.0)
        dg = tl.where(mask, dg, 0.0)
        store_group_sums(product_ptr, dg * a, group, tile, columns, K)
        store_group_sums(sum_ptr, dg, group, tile, columns, K)
