"""Device code: the 7x7 depthwise convolution over the rows of a sparse layout, whose neighbours are looked up.

Rows and sites are numbered in 32 bits, elements in 64. Channels are passed as `C / UNIT` and UNIT, the largest power of
two up to 16 that divides them, so that the compiler sees how far rows are aligned.
"""

import triton
import triton.language as tl


@triton.jit
def site_of(rows, T, H, W, index_ptr):
    """The position of each row in the flattened `[N, H, W]` plane, and its y and x."""
    site = tl.load(index_ptr + rows, mask=rows < T, other=0).to(tl.int32)
    return site, site // W % H, site % W


@triton.jit
def load_neighbours(x_ptr, rows, site, y, x, dy, dx, columns, T, C, H, W, map_ptr):
    """The tile of x at `(y + dy, x + dx)` of each row, float32; zeros off the plane and at inactive sites."""
    there = (rows < T) & (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
    near = tl.load(map_ptr + site + dy * W + dx, mask=there, other=-1)
    there = near >= 0
    at = x_ptr + (near.to(tl.int64) * C)[:, None] + columns[None, :]
    return tl.load(at, mask=there[:, None] & (columns < C)[None, :], other=0.0).to(tl.float32)


@triton.jit
def convolve(
    x_ptr,  # [T, C]
    kernel_ptr,  # [49, C], tap = kx * 7 + ky
    bias_ptr,  # [C] or None
    index_ptr,  # int64 [T]
    map_ptr,  # int32 [N, H, W]
    rows,
    columns,
    T,
    C,
    H,
    W,
    FLIP: tl.constexpr,
    P: tl.constexpr,
    BC: tl.constexpr,
):
    """The convolution at `rows` `[P]` and `columns` `[BC]`, float32; FLIP: its transpose, the gradient by x."""
    acc = tl.zeros((P, BC), tl.float32)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    site, y, x = site_of(rows, T, H, W, index_ptr)
    for ky in range(7):
        for kx in range(7):  # not unrolled: loads of many taps in flight would cost more warps than they hide latency
            near = load_neighbours(x_ptr, rows, site, y, x, ky - 3, kx - 3, columns, T, C, H, W, map_ptr)
            tap = kx * 7 + ky
            if FLIP:
                tap = 48 - tap
            weight = tl.load(kernel_ptr + tap * C + columns, mask=columns < C, other=0.0).to(tl.float32)
            acc += near * weight[None, :]
    return acc
