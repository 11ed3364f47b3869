"""Linear, GELU, GRN, Linear, residual and drop path in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from .._grn.reference import grn
from .._shared.checks import samples


def mlp_grn(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    residual: Tensor | None = None,
    row_scale: Tensor | None = None,
    eps: float = 1e-6,
    rows_per_group: int | Tensor | None = None,
    strategy: str | None = None,
) -> Tensor:
    """`residual + row_scale * (GRN(GELU(u w1' + b1)) w2' + b2)`; the erf GELU. It materialises everything."""
    dtype = u.dtype
    rows_per_group = samples(u, rows_per_group, "mlp_grn")
    rows = u.reshape(-1, u.shape[-1])
    a = F.gelu(F.linear(rows, w1.to(dtype), b1.to(dtype)))
    y = F.linear(grn(a, gamma, beta, eps=eps, rows_per_group=rows_per_group), w2.to(dtype), b2.to(dtype))
    if row_scale is not None:
        runs = row_scale.shape[0]
        y = y.view(runs, y.shape[0] // max(runs, 1), y.shape[1]) * row_scale.to(dtype).view(-1, 1, 1)
    y = y.reshape(u.shape)
    return y if residual is None else residual + y
