"""The yardstick `eager`: ConvNeXt V2 as its authors wrote it, one torch operator after another.

Module and parameter names are upstream's, so a state dict of :mod:`convnextv2_fast` loads strictly. The mathematics is
spelled out the way the original does it (permutes, hand-written channels-first LayerNorm, GRN as separate elementwise
operators), because this is the code that a user has today.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sizes import SIZES

EPS = 1e-6


def channels_first_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = EPS) -> Tensor:
    """LayerNorm over dim 1 of `[N, C, H, W]` in five operators."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + eps)
    return weight[:, None, None] * x + bias[:, None, None]


def response_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = EPS) -> Tensor:
    """GRN of `[N, H, W, C]`: one norm and five elementwise operators."""
    norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    ratio = norm / (norm.mean(dim=-1, keepdim=True) + eps)
    return gamma * (x * ratio) + beta + x


class LayerNorm(nn.Module):
    """LayerNorm of `[N, H, W, C]`, or of `[N, C, H, W]` with ``channels_first``."""

    def __init__(self, dim: int, channels_first: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.channels_first = channels_first

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_first:
            return channels_first_layer_norm(x, self.weight, self.bias)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPS)


class GRN(nn.Module):
    """Global response normalisation of `[N, H, W, C]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.gamma, self.beta)


class Block(nn.Module):
    """`[N, C, H, W]` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm(dim)
        self.pwconv1, self.act, self.grn = nn.Linear(dim, 4 * dim), nn.GELU(), GRN(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(self.act(self.pwconv1(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXtV2(nn.Module):
    """The dense classifier: NCHW images to logits."""

    def __init__(self, size: str, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        depths, dims = SIZES[size]
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, stride=4), LayerNorm(dims[0], channels_first=True))]
        )
        for narrow, wide in itertools.pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm(narrow, channels_first=True), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim) for _ in range(depth))) for depth, dim in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean([-2, -1])))


# The ops one by one. Arguments as in convnextv2_fast.ops; `[N, H, W, C]` in and out, whatever memory lies beneath:
# a view of NCHW-contiguous memory is what upstream hands from module to module.


def dwconv_layer_norm(x: Tensor, weight: Tensor, bias: Tensor, ln_weight: Tensor, ln_bias: Tensor) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=x.shape[-1])
    return F.layer_norm(y.permute(0, 2, 3, 1), ln_weight.shape, ln_weight, ln_bias, EPS)


def mlp_grn(
    u: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, b2: Tensor, *, residual: Tensor
) -> Tensor:
    return residual + F.linear(response_norm(F.gelu(F.linear(u, w1, b1)), gamma, beta), w2, b2)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, weight.shape, weight, bias, EPS)


def stem(x: Tensor, weight: Tensor, bias: Tensor, ln_weight: Tensor, ln_bias: Tensor) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride=weight.shape[-1])
    return channels_first_layer_norm(y, ln_weight, ln_bias).permute(0, 2, 3, 1)


def downsample(x: Tensor, weight: Tensor, bias: Tensor, ln_weight: Tensor, ln_bias: Tensor) -> Tensor:
    y = channels_first_layer_norm(x.permute(0, 3, 1, 2), ln_weight, ln_bias)
    return F.conv2d(y, weight, bias, stride=weight.shape[-1]).permute(0, 2, 3, 1)
