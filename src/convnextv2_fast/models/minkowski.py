"""Stand-ins for the four MinkowskiEngine modules of FCMAE's encoder: same names, parameters, shapes and random draws.

They compute on :class:`convnextv2_fast.layouts.SparseTensor`, without MinkowskiEngine."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import UnsupportedInputError
from ..layouts import SparseTensor


def _uniform(kernel: Tensor, bias: Tensor | None, fan_in: int) -> None:
    """MinkowskiEngine's reset_parameters: kernel, then bias, uniform in +-1/sqrt(fan_in)."""
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        kernel.uniform_(-bound, bound)
        if bias is not None:
            bias.uniform_(-bound, bound)


class MinkowskiDepthwiseConvolution(nn.Module):
    """Submanifold depthwise 7x7. `kernel` `[49, C]` with tap = kx*7 + ky, `bias` `[1, C]`."""

    def __init__(
        self, in_channels: int, kernel_size: int = 7, stride: int = 1, bias: bool = False, dimension: int = 2
    ) -> None:
        super().__init__()
        if kernel_size != 7 or stride != 1:
            raise UnsupportedInputError(f"only the 7x7 stride-1 depthwise convolution: got {kernel_size=}, {stride=}")
        self.in_channels, self.dimension = in_channels, dimension
        self.kernel = nn.Parameter(torch.empty(kernel_size**2, in_channels))
        self.bias = nn.Parameter(torch.empty(1, in_channels)) if bias else None
        _uniform(self.kernel, self.bias, in_channels * kernel_size**2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(ops.sparse_dwconv(x.F, self.kernel, self.bias, layout=x.layout))

    def extra_repr(self) -> str:
        return f"{self.in_channels}, kernel_size=7, bias={self.bias is not None}"


class MinkowskiConvolution(nn.Module):
    """k x k convolution of stride k. `kernel` `[k*k, Cin, Cout]` with tap = kx*k + ky, `bias` `[1, Cout]`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int = 2,
        bias: bool = False,
        dimension: int = 2,
    ) -> None:
        super().__init__()
        if stride != kernel_size:
            raise UnsupportedInputError(f"only non-overlapping convolutions: got {kernel_size=}, {stride=}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.dimension = dimension
        self.kernel = nn.Parameter(torch.empty(kernel_size**2, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(1, out_channels)) if bias else None
        _uniform(self.kernel, self.bias, in_channels * kernel_size**2)

    def forward(self, x: SparseTensor) -> SparseTensor:
        rows = ops.patch_conv(x.F, self.kernel, self.bias, layout=x.layout)
        return SparseTensor(rows, x.layout.coarsen(self.kernel_size)[0])

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.kernel_size}"


class MinkowskiLinear(nn.Module):
    """A Linear over rows, held under MinkowskiEngine's name `linear`."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.linear(x.F))


class MinkowskiGELU(nn.Module):
    """The erf GELU over rows. The inner module matters: FCMAE's initialisation draws once per module visited."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.GELU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        return x.replace(self.module(x.F))
