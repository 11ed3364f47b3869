"""The whole model as upstream's users have it in a file of their own: its names and its maths, V2 and V1."""

import itertools

import torch
from torch import nn

from tests.adapters.written_like_upstream import Block, LayerNorm


class ConvNeXtV2(nn.Module):
    def __init__(self, v1=False, dims=(8, 16, 24, 40), num_classes=5):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm(dims[0], data_format="channels_first"))
        self.downsample_layers = nn.ModuleList([stem])
        for a, b in itertools.pairwise(dims):
            norm = LayerNorm(a, data_format="channels_first")
            self.downsample_layers.append(nn.Sequential(norm, nn.Conv2d(a, b, 2, 2)))
        self.stages = nn.ModuleList([nn.Sequential(Block(dim, v1=v1)) for dim in dims])
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward_features(self, x):
        for i in range(4):
            x = self.downsample_layers[i](x)
            x = self.stages[i](x)
        return self.norm(x.mean([-2, -1]))

    def forward(self, x):
        return self.head(self.forward_features(x))


class PooledByTheLargest(ConvNeXtV2):
    def forward_features(self, x):
        for i in range(4):
            x = self.stages[i](self.downsample_layers[i](x))
        return self.norm(x.amax([-2, -1]))


class StagesFirst(ConvNeXtV2):
    """The names of upstream's code in another order."""

    def forward_features(self, x):
        for i in range(4):
            x = self.stages[i](x)
            x = self.downsample_layers[i](x)
        return self.norm(x.mean([-2, -1]))


class OfOneSample(ConvNeXtV2):
    def forward_features(self, x):
        for i in range(4):
            x = self.stages[i](self.downsample_layers[i](x))
        return self.norm(x.mean([-2, -1])) if torch.is_grad_enabled() else x


for _cls in (PooledByTheLargest, StagesFirst, OfOneSample):
    _cls.__name__ = "ConvNeXtV2"
