"""The forms of a patch convolution's weight, and its gradient in the same form.

`[Cout, Cin, k, k]` is nn.Conv2d's, `[k*k, Cin, Cout]` with tap = kx*k + ky MinkowskiEngine's, and `[k*k*Cin, Cout]`,
rows (ky, kx, cin), that of a matrix product with blocks."""

from __future__ import annotations

from torch import Tensor

from .._shared.checks import keep_strides


def edge(weight: Tensor) -> int:
    """k of the first two forms."""
    return weight.shape[-1] if weight.ndim == 4 else round(weight.shape[0] ** 0.5)


def matrix(weight: Tensor) -> Tensor:
    """One of the first two forms in the third."""
    if weight.ndim == 4:
        return keep_strides(weight).permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    k = edge(weight)
    return weight.view(k, k, *weight.shape[1:]).transpose(0, 1).reshape(-1, weight.shape[2])


def transposed(weight: Tensor) -> Tensor:
    """Any form as `[Cout, k*k*Cin]`: a filter's numbers stay together, so copying is cheap."""
    if weight.ndim == 4:
        return weight.permute(0, 2, 3, 1).flatten(1)
    return (weight if weight.ndim == 2 else matrix(weight)).t()


def gradient(blocks: Tensor, dz: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a weight in its own form, from blocks `[T, k*k*Cin]` and dz `[T, Cout]`. The order of the product
    is chosen so that little is left to rearrange."""
    if weight.ndim == 4:
        return from_rows(dz.t() @ blocks, weight)
    columns = blocks.t() @ dz
    return columns if weight.ndim == 2 else from_rows(columns.t(), weight)


def from_rows(rows: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a weight, of the first two forms, in its own form; from `[Cout, k*k*Cin]`, the inverse of
    :func:`transposed`. Its strides are those of a view."""
    k = edge(weight)
    if weight.ndim == 4:
        return rows.view(weight.shape[0], k, k, weight.shape[1]).permute(0, 3, 1, 2)
    return rows.t().reshape(k, k, *weight.shape[1:]).transpose(0, 1).reshape(weight.shape)
