"""Depthwise 7x7 convolution, then LayerNorm over channels, in plain PyTorch."""

import torch.nn.functional as F
from torch import Tensor

from ...layouts import Layout
from .._common import conv2d_weight
from ..layer_norm.reference import layer_norm
from ..sparse_dwconv.reference import sparse_dwconv


def dwconv_layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """Dense `[N, H, W, C]`, or rows `[T, C]` with their layout, where only active sites are read and written."""
    if x.ndim == 2:
        assert layout is not None
        z = sparse_dwconv(x, weight, bias, layout=layout)
    else:
        w, b = conv2d_weight(weight).to(x.dtype), None if bias is None else bias.to(x.dtype).view(-1)
        z = F.conv2d(x.permute(0, 3, 1, 2), w, b, padding=3, groups=x.shape[3]).permute(0, 2, 3, 1)
    return layer_norm(z, ln_weight, ln_bias, eps=eps)
