"""Device code: the 7x7 depthwise convolution of dense planes, in strips of P columns that sweep down the rows.

Each row of x is loaded seven times, shifted by kx - 3, and added to the seven rows of the result that it touches, whose
sums move on by one with every row. Sums and taps stay in registers: two channels a lane, several columns.
"""

import triton
import triton.language as tl


@triton.jit
def load_vector(ptr, columns, C):
    """A float32 row `[1, BC]` of a parameter."""
    columns = columns[None, :]
    return tl.load(ptr + columns, mask=columns < C, other=0.0).to(tl.float32)


@triton.jit
def load_taps(kernel_ptr, columns, C, FLIP: tl.constexpr):
    """The 49 taps as a tuple of float32 rows `[1, BC]`; FLIP: in reverse, for the transposed convolution."""
    taps = ()
    for tap in tl.static_range(49):
        taps = taps + (load_vector(kernel_ptr + (48 - tap if FLIP else tap) * C, columns, C),)
    return taps


@triton.jit
def strip_of(work, H, W, S, P: tl.constexpr):
    """Plane, first and end row, first column of a strip, by its number: S rows of P columns."""
    across, down = tl.cdiv(W, P), tl.cdiv(H, S)
    y0 = work // across % down * S
    return work // (across * down), y0, tl.minimum(y0 + S, H), work % across * P


@triton.jit
def channels_of(chunk, BC: tl.constexpr):
    """The channels `[BC]` of a strip. Triton is told of two adjacent ones only, so that it gives a lane two, not eight:
    with 49 taps each, more do not fit its registers."""
    return tl.max_contiguous(chunk * BC + tl.arange(0, BC), 2)


@triton.jit
def row_pointer(ptr, n, y, H, W, C):
    """The first element of row y of plane n."""
    return ptr + (n.to(tl.int64) * H + y) * W * C


@triton.jit
def load_shifted(row_ptr, x, columns, shift, C, W):
    """x's columns `x + shift` `[P]` of a row, channels `columns` `[BC]`, float32; zeros off the plane."""
    at = x + shift
    mask = (at.to(tl.uint32) < W.to(tl.uint32))[:, None] & (columns < C)[None, :]  # negative ones are large
    return tl.load(row_ptr + (at * C)[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def add_row(sums, taps, row_ptr, x, columns, C, W):
    """A row's part in `sums`: seven tiles `[P, BC]`, of the rows of the result from three above to three below."""
    for kx in tl.static_range(7):
        value = load_shifted(row_ptr, x, columns, kx - 3, C, W)
        added = ()
        for i in tl.static_range(7):
            added = added + (sums[i] + value * taps[kx * 7 + 6 - i],)
        sums = added
    return sums


@triton.jit
def add_products(grads, window, row_ptr, x, columns, C, W):
    """A row's part in the 49 taps' gradients, tiles `[P, BC]`, from the seven rows of dy around it."""
    added = ()
    for kx in tl.static_range(7):
        value = load_shifted(row_ptr, x, columns, kx - 3, C, W)
        for ky in tl.static_range(7):
            added = added + (grads[kx * 7 + ky] + value * window[6 - ky],)
    return added
