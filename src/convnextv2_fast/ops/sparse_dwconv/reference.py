"""Submanifold depthwise 7x7 convolution in plain PyTorch: scatter to the plane, convolve, gather the active sites."""

import torch.nn.functional as F
from torch import Tensor

from ...layouts import Layout
from .._common import conv2d_weight


def sparse_dwconv(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """`y[t] = sum over active neighbours of kernel * x + bias`: absent neighbours count as zero.

    Exactly MinkowskiEngine's submanifold convolution: cross-correlation, `kernel[kx*7 + ky, c]`."""
    dense = layout.to_dense(x).permute(0, 3, 1, 2)
    weight = conv2d_weight(kernel).to(x.dtype)
    y = F.conv2d(dense, weight, None, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
    y = layout.from_dense(y)
    return y if bias is None else y + bias.to(x.dtype).view(-1)
