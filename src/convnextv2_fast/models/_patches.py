"""Images to rows of patches and back: a row a patch, (row, column, channel) within it, patches row-major."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UnsupportedInputError


def patchify(imgs: Tensor, p: int) -> Tensor:
    """Images `[N, C, h*p, w*p]` to `[N, h*w, p*p*C]`."""
    n, c, height, width = imgs.shape
    h, w = height // p, width // p
    return torch.einsum("nchpwq->nhwpqc", imgs.reshape(n, c, h, p, w, p)).reshape(n, h * w, p * p * c)


def some_patches(imgs: Tensor, p: int, patches: Tensor) -> Tensor:
    """Rows `patches` (int64 `[T]`, positions in the flattened `[N, h, w]` grid) of what :func:`patchify` gives, without
    copying the others: images `[N, C, H, W]` to `[T, p*p*C]`."""
    n, c, height, width = imgs.shape
    h, w = height // p, width // p
    grid = imgs.reshape(n, c, h, p, w, p).permute(0, 2, 4, 3, 5, 1)
    return grid[patches // (h * w), patches // w % h, patches % w].reshape(patches.shape[0], p * p * c)


def rows_of(x: Tensor, p: int, channels: int, who: str) -> Tensor:
    """Patches `[N, L, p*p*C]`, or predictions `[N, p*p*C, h, w]`, as the former.

    Raises:
        UnsupportedInputError: neither. The rank tells the two forms apart, and the values of a patch must be p*p*C.
    """
    values = p * p * channels
    if x.ndim == 4 and x.shape[1] == values:
        return x.permute(0, 2, 3, 1).flatten(1, 2)
    if x.ndim == 3 and x.shape[2] == values:
        return x
    raise UnsupportedInputError(
        f"{who}: patches of {p}x{p} pixels and {channels} channels have {values} values; wants [N, L, {values}] or "
        f"[N, {values}, h, w], got {tuple(x.shape)}"
    )


def unpatchify(x: Tensor, p: int, channels: int, grid: tuple[int, int] | None) -> Tensor:
    """Patches or predictions, as :func:`rows_of` takes them, to images `[N, C, h*p, w*p]`.

    Args:
        grid: `(h, w)`. None: of predictions, their own; of rows, square.
    Raises:
        UnsupportedInputError: x has another shape, or is no such grid.
    """
    rows = rows_of(x, p, channels, "FCMAE.unpatchify")
    n, length = rows.shape[:2]
    side = int(length**0.5)
    own = (x.shape[2], x.shape[3]) if x.ndim == 4 else (side, side)
    h, w = grid or own
    if h * w != length or (x.ndim == 4 and (h, w) != own):
        given = f"{own[0]}x{own[1]}" if x.ndim == 4 else str(length)
        raise UnsupportedInputError(f"FCMAE.unpatchify: {given} patches are no {h}x{w} grid; give grid=(h, w)")
    rows = rows.reshape(n, h, w, p, p, channels)
    return torch.einsum("nhwpqc->nchpwq", rows).reshape(n, channels, h * p, w * p)
