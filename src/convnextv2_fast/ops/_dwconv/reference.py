"""Depthwise 7x7 convolution in plain PyTorch, dense and submanifold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import plain
from ...layouts import Layout
from ...spec import Implementation, always
from .._shared.checks import conv2d_weight
from .._shared.sites import Sites
from .call import DwconvCall


def dwconv(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Every site of `[N, H, W, C]`, zeros beyond the edges."""
    image = x.permute(0, 3, 1, 2)
    if x.dtype == torch.float64 and x.device.type == "cpu":
        # oneDNN has no float64; what PyTorch does instead takes two to four times as long through strides.
        image = image.contiguous()
    weight = conv2d_weight(kernel).to(x.dtype)
    flat_bias = None if bias is None else bias.to(x.dtype).view(-1)
    return F.conv2d(image, weight, flat_bias, padding=3, groups=plain.width(weight) // 49).permute(0, 2, 3, 1)


def sparse_dwconv(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """`y[t] = sum over active neighbours of kernel * x + bias`: absent neighbours count as zero. Scatters to the plane,
    convolves, gathers the active sites.

    Exactly MinkowskiEngine's submanifold convolution: cross-correlation, `kernel[kx*7 + ky, c]`."""
    y = layout.from_dense(dwconv(layout.to_dense(x), kernel, None))
    return y if bias is None else y + bias.to(x.dtype).view(-1)


def of_rows(x: Tensor, kernel: Tensor, bias: Tensor | None, sites: Sites) -> Tensor:
    """The same for rows x `[T, C]` and taps `[49, C]`, from where rows sit in the kernels' form."""
    h, w, index, site_map = sites
    if index is None or site_map is None:
        return dwconv(x.view(-1, h, w, x.shape[1]), kernel, bias).reshape(x.shape)
    plane = x.new_zeros(site_map.numel(), x.shape[1]).index_copy(0, index, x)
    y = dwconv(plane.view(*site_map.shape, x.shape[1]), kernel, None).reshape(plane.shape).index_select(0, index)
    return y if bias is None else y + bias.to(x.dtype)


def run(call: DwconvCall) -> Tensor:
    return sparse_dwconv(call.x, call.kernel, call.bias, layout=call.layout)


TORCH = Implementation("torch", run, always)
