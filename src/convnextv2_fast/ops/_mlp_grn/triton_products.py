"""Device code that mlp_grn's kernels share: tiles of matrix products, and what follows them.

Matrices come as pointers, or, where TMA, as tensor descriptors of the tile's shape: the copy engine then computes the
addresses and fills what lies outside with zeros.
"""

import triton
import triton.language as tl


@triton.jit
def share(tiles, PERSISTENT: tl.constexpr):
    """The range of tiles of this program: every num_programs-th where PERSISTENT, else its one."""
    first = tl.program_id(0)
    if PERSISTENT:
        return first, tiles, tl.num_programs(0)
    else:
        return first, first + 1, 1


@triton.jit
def product(
    x_ptr, w_ptr, row0, col0, T, N, D, TRANSPOSED: tl.constexpr,
    TMA: tl.constexpr, IEEE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Tile `[BN, BM]` of `(x w)'`: x `[T, D]` in tiles `[BM, BD]`, w `[D, N]` in tiles `[BD, BN]`; of `(x w')'` where
    TRANSPOSED: w `[N, D]` in tiles `[BN, BD]`.

    A row of x is a column of the tile, along which matrix units leave a thread many elements: it adds up most of a sum
    over rows by itself, and needs few elements of a vector of N."""
    local, columns = tl.arange(0, BM), tl.arange(0, BN)
    x_at, w_at = x_ptr, w_ptr
    if not TMA:
        x_at = x_ptr + row0.to(tl.int64) * D + local[None, :] * D
        if TRANSPOSED:
            w_at = w_ptr + col0.to(tl.int64) * D + columns[:, None] * D
        else:
            w_at = w_ptr + col0 + columns[:, None]
    x_live, w_live = (row0 + local < T)[None, :], (col0 + columns < N)[:, None]
    acc = tl.zeros([BN, BM], tl.float32)
    for d0 in range(0, D, BD):
        if TMA:
            x = x_ptr.load([row0, d0]).T
            w = w_ptr.load([col0, d0]) if TRANSPOSED else w_ptr.load([d0, col0]).T
        else:
            d = d0 + tl.arange(0, BD)
            x = tl.load(x_at + d[:, None], mask=x_live & (d < D)[:, None], other=0.0)
            w_step = d if TRANSPOSED else d.to(tl.int64) * N
            w = tl.load(w_at + w_step[None, :], mask=w_live & (d < D)[None, :], other=0.0)
        acc = tl.dot(w, x, acc, input_precision="ieee" if IEEE else "tf32")
    return acc


@triton.jit
def scaled_product(
    a_ptr, w2_ptr, scale_ptr, beta_ptr, row0, col0, group, T, K, C_OUT,
    ONE_GROUP: tl.constexpr, TMA: tl.constexpr, IEEE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Tile of `(a scale + beta) w2'`; with ONE_GROUP all rows are of one group and share a row of the scale."""
    local = tl.arange(0, BM)
    columns = col0 + tl.arange(0, BN)
    live, w_live = (row0 + local < T)[:, None], (columns < C_OUT)[None, :]
    a_at, w_at = a_ptr, w2_ptr
    if not TMA:
        a_at = a_ptr + row0.to(tl.int64) * K + local[:, None] * K
        w_at = w2_ptr + columns.to(tl.int64)[None, :] * K
    acc = tl.zeros([BM, BN], tl.float32)
    for k0 in tl.range(0, K, BK, num_stages=None if ONE_GROUP else 2):
        k = k0 + tl.arange(0, BK)
        if TMA:
            a, w = a_ptr.load([row0, k0]), w2_ptr.load([col0, k0]).T
        else:
            a = tl.load(a_at + k[None, :], mask=live & (k < K)[None, :], other=0.0)
            w = tl.load(w_at + k[:, None], mask=w_live & (k < K)[:, None], other=0.0)
        beta = vector(beta_ptr, k, k < K)
        if ONE_GROUP:
            scale = tl.load(scale_ptr + tl.max(group, 0).to(tl.int64) * K + k, mask=k < K, other=0.0)[None, :]
        else:
            at = group.to(tl.int64)[:, None] * K + k[None, :]
            scale = tl.load(scale_ptr + at, mask=live & (k < K)[None, :], other=0.0)
        g = (a.to(tl.float32) * scale + beta).to(a.dtype)
        acc = tl.dot(g, w, acc, input_precision="ieee" if IEEE else "tf32")
    return acc


@triton.jit
def vector(ptr, at, live):
    """A float32 row `[1, n]` of a parameter."""
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)[None, :]


@triton.jit
def column(ptr, at, live):
    """A float32 column `[n, 1]` of a parameter."""
    return tl.load(ptr + at, mask=live, other=0.0).to(tl.float32)[:, None]


@triton.jit
def finish(acc, b2_ptr, row_scale_ptr, residual_ptr, out_ptr, row0, columns, T, C_OUT, run, BM: tl.constexpr):
    """Bias, drop path and residual of a result tile, and its store."""
    local = tl.arange(0, BM)
    rows = row0 + local
    mask = (rows < T)[:, None] & (columns < C_OUT)[None, :]
    at = row0.to(tl.int64) * C_OUT + local[:, None] * C_OUT + columns[None, :]
    y = acc + vector(b2_ptr, columns, columns < C_OUT)
    if row_scale_ptr is not None:
        y *= tl.load(row_scale_ptr + rows // run, mask=rows < T, other=0.0).to(tl.float32)[:, None]
    if residual_ptr is not None:
        y += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, y, mask=mask)
