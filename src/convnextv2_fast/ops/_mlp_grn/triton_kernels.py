"""Linear, GELU, GRN, Linear in Triton: the kernels that are plain tiles of their result. `triton_launch` starts them.

Rows T, channels C in and C_OUT out, hidden K. A program takes every num_programs-th tile: one, or, where TMA, as many
as keep it busy. C comes as a multiple of UNIT: Triton sees the alignment of 16s only, and rows of 40 halves are aligned
all the same.
"""

import triton
import triton.language as tl

from .._triton.activation import gelu, gelu_and_grad, rounded
from .._triton.group_sums import groups_of_rows, groups_of_tile, rows_of_group, store_group_sums
from .triton_products import column, finish, product, scaled_product, share


@triton.jit
def hidden_kernel(
    u_ptr,  # [T, C]; where TMA, a descriptor of tiles [BM, BD]
    w1_ptr,  # [K, C]; tiles [BN, BD]
    b1_ptr,  # [K]
    a_ptr,  # [T, K], written if STORE
    partial_ptr,  # slots of sum a^2
    row_group_ptr,
    offsets_ptr,
    T,
    units,  # C / UNIT
    K,
    rows_per_group,
    UNIT: tl.constexpr,
    STORE: tl.constexpr,
    TMA: tl.constexpr,
    FAST: tl.constexpr,
    PTX: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """GEMM 1 with its epilogue: bias, GELU, sums of squares per group and column."""
    C = units * UNIT
    dtype: tl.constexpr = u_ptr.dtype if TMA else u_ptr.dtype.element_ty
    blocks = tl.cdiv(K, BN)
    start, end, step = share(tl.cdiv(T, BM) * blocks, TMA)
    for work in range(start, end, step):
        tile, block = work // blocks, work % blocks
        columns = block * BN + tl.arange(0, BN)
        row0 = tile * BM
        h = product(u_ptr, w1_ptr, row0, block * BN, T, K, C, True, TMA, IEEE, BM, BN, BD)
        a = rounded(gelu(h + column(b1_ptr, columns, columns < K), FAST, PTX), dtype, PTX)
        if STORE:
            local = tl.arange(0, BM)
            mask = (columns < K)[:, None] & (row0 + local < T)[None, :]
            at = row0.to(tl.int64) * K + local[None, :] * K + columns[:, None]
            tl.store(a_ptr + at, a, mask=mask)
        first, last = groups_of_tile(row0, T, row_group_ptr, rows_per_group, RAGGED, BM)
        a = a.to(tl.float32)
        store_group_sums(partial_ptr, a * a, first, last, tile, columns, K, offsets_ptr, rows_per_group, RAGGED, 1, BM)


@triton.jit
def output_kernel(
    a_ptr,  # [T, K]; where TMA, a descriptor of tiles [BM, BK]
    w2_ptr,  # [C_OUT, K]; tiles [BN, BK]
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
    TMA: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """GEMM 2: GRN on its operand as it is loaded; bias, drop path and residual in the epilogue."""
    C_OUT = units * UNIT
    blocks = tl.cdiv(C_OUT, BN)
    first, end, step = share(tl.cdiv(T, BM) * blocks, TMA)
    for work in range(first, end, step):
        row0, col0 = work // blocks * BM, work % blocks * BN
        group = groups_of_rows(row0 + tl.arange(0, BM), T, row_group_ptr, rows_per_group, RAGGED)
        if tl.min(group, 0) == tl.max(group, 0):
            acc = scaled_product(
                a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT, True, TMA, IEEE, BM, BN, BK
            )
        else:
            acc = scaled_product(
                a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT, False, TMA, IEEE, BM, BN, BK
            )
        columns = col0 + tl.arange(0, BN)
        finish(acc, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, columns, T, C_OUT, run, BM)


@triton.jit
def backward_kernel(
    dy_ptr,  # [T, C_OUT], drop path applied; where TMA, a descriptor of tiles [BM, BD]
    u_ptr,  # [T, C]; tiles [BM, BD]
    w1_ptr,  # [K, C]; tiles [BN, BD]
    b1_ptr,  # [K]
    w2_ptr,  # [C_OUT, K]; tiles [BD, BN]
    scale_ptr,  # [G, K], the rest is for SECOND
    factor_ptr,  # [G, K]
    beta_ptr,  # [K]
    h_ptr,  # [T, K]: h, kept by the first pass if KEEP; SECOND overwrites it by g = a scale + beta
    dg_ptr,  # [T, K]: dg, likewise; SECOND overwrites it by dh
    product_ptr,  # first pass: slots of sum dg a; SECOND: [tiles, K], column sums of dh
    sum_ptr,  # first pass: slots of sum dg
    row_group_ptr,
    offsets_ptr,
    T,
    units,  # C / UNIT
    K,
    units_out,  # C_OUT / UNIT
    rows_per_group,
    UNIT: tl.constexpr,
    SECOND: tl.constexpr,
    KEEP: tl.constexpr,
    TMA: tl.constexpr,
    FAST: tl.constexpr,
    PTX: tl.constexpr,
    IEEE: tl.constexpr,
    RAGGED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """A tile of the hidden gradients, from h = u w1' + b1 and dg = dy w2 computed again (or kept).

    The first pass takes the sums per group that GRN's gradient needs, the second has them and writes g and dh."""
    C, C_OUT = units * UNIT, units_out * UNIT
    dtype: tl.constexpr = h_ptr.dtype.element_ty
    blocks = tl.cdiv(K, BN)
    start, end, step = share(tl.cdiv(T, BM) * blocks, TMA)
    for work in range(start, end, step):
        tile, block = work // blocks, work % blocks
        row0, col0 = tile * BM, block * BN
        local, columns = tl.arange(0, BM), col0 + tl.arange(0, BN)
        live = columns < K
        mask = live[:, None] & (row0 + local < T)[None, :]
        at = row0.to(tl.int64) * K + local[None, :] * K + columns[:, None]
        if SECOND and KEEP:
            h = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32)
            dg = tl.load(dg_ptr + at, mask=mask, other=0.0).to(tl.float32)
        else:
            h = product(u_ptr, w1_ptr, row0, col0, T, K, C, True, TMA, IEEE, BM, BN, BD)
            h += column(b1_ptr, columns, live)
            dg = product(dy_ptr, w2_ptr, row0, col0, T, K, C_OUT, False, TMA, IEEE, BM, BN, BD)
        first, last = groups_of_tile(row0, T, row_group_ptr, rows_per_group, RAGGED, BM)
        if SECOND:
            a, slope = gelu_and_grad(h, FAST, PTX)
            part, beta = rounded(a, dtype, PTX).to(tl.float32), column(beta_ptr, columns, live)
            if KEEP:  # a thread holds few columns, in the order of the factors in memory
                group = groups_of_rows(row0 + local, T, row_group_ptr, rows_per_group, RAGGED)
                at_group = group.to(tl.int64)[None, :] * K + columns[:, None]
                scale = tl.load(scale_ptr + at_group, mask=mask, other=0.0)
                factor = tl.load(factor_ptr + at_group, mask=mask, other=0.0)
                g, dh = part * scale + beta, (dg * scale + a * factor) * slope
            else:
                at_group = first.to(tl.int64) * K + columns
                scale, factor = column(scale_ptr, at_group, live), column(factor_ptr, at_group, live)
                g, dh = part * scale + beta, (dg * scale + a * factor) * slope
                for i in range(1, last - first + 1):
                    group = first + i
                    begin, _ = rows_of_group(group, offsets_ptr, rows_per_group, RAGGED)
                    after = (row0 + local >= begin)[None, :]
                    at_group = group.to(tl.int64) * K + columns
                    scale, factor = column(scale_ptr, at_group, live), column(factor_ptr, at_group, live)
                    g = tl.where(after, part * scale + beta, g)
                    dh = tl.where(after, (dg * scale + a * factor) * slope, dh)
            tl.store(h_ptr + at, rounded(g, dtype, PTX), mask=mask)
            tl.store(dg_ptr + at, rounded(dh, dtype, PTX), mask=mask)
            dh = tl.where(mask, dh, 0.0)
            tl.store(product_ptr + tile.to(tl.int64) * K + columns, tl.sum(dh, 1), mask=live)
        else:
            if KEEP:
                tl.store(h_ptr + at, rounded(h, dtype, PTX), mask=mask)
                tl.store(dg_ptr + at, rounded(dg, dtype, PTX), mask=mask)
            a = gelu(h, FAST, PTX)
            store_group_sums(
                product_ptr, dg * a, first, last, tile, columns, K, offsets_ptr, rows_per_group, RAGGED, 1, BM
            )
            store_group_sums(sum_ptr, dg, first, last, tile, columns, K, offsets_ptr, rows_per_group, RAGGED, 1, BM)
