"""Modules as users of upstream's repository have them in a file of their own: its class names, attributes and maths.

`Block` is its block; the others look like it and compute something else."""

import torch
import torch.nn.functional as F
from torch import nn


class LayerNorm(nn.Module):
    def __init__(self, normalized_shape, eps=1e-6, data_format="channels_last"):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(normalized_shape))
        self.bias = nn.Parameter(torch.zeros(normalized_shape))
        self.eps, self.data_format, self.normalized_shape = eps, data_format, (normalized_shape,)

    def forward(self, x):
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        centred = x - x.mean(1, keepdim=True)
        x = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class GRN(nn.Module):
    denominator = 1e-6

    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x):
        norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + self.denominator))) + self.beta + x


class Block(nn.Module):
    def __init__(self, dim, drop_path=0.0, v1=False):
        super().__init__()
        from timm.layers import DropPath

        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        if v1:
            self.gamma = nn.Parameter(0.3 * torch.ones(dim))
        else:
            self.grn = GRN(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x):
        y = self.act(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        y = self.pwconv2(self.grn(y)) if hasattr(self, "grn") else self.gamma * self.pwconv2(y)
        return x + self.drop_path(y.permute(0, 3, 1, 2))


def named_block(cls):
    cls.__name__ = "Block"
    return cls


@named_block
class WithoutResidual(Block):
    def forward(self, x):
        return super().forward(x) - x


class LargerEps(GRN):
    denominator = 1e-4


@named_block
class WithLargerEps(Block):
    def __init__(self, dim):
        super().__init__(dim)
        self.grn = LargerEps(4 * dim)


@named_block
class ThatRaises(Block):
    def forward(self, x):
        raise RuntimeError("only on Tuesdays")


class ConvNeXtV2(nn.Module):
    def __init__(self, block=Block, dims=(8, 16), **options):
        super().__init__()
        first = nn.Sequential(
            nn.Conv2d(3, dims[0], kernel_size=4, stride=4), LayerNorm(dims[0], data_format="channels_first")
        )
        second = nn.Sequential(
            LayerNorm(dims[0], data_format="channels_first"), nn.Conv2d(dims[0], dims[1], kernel_size=2, stride=2)
        )
        self.downsample_layers = nn.ModuleList([first, second])
        self.stages = nn.ModuleList([nn.Sequential(*[block(dim, **options) for _ in range(2)]) for dim in dims])

    def forward(self, x):
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return x
