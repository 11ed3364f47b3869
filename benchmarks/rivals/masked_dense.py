"""The rival of sparse FCMAE: the same mathematics by dense convolutions times a mask, in plain PyTorch.

Only the depthwise convolution mixes sites and only GRN has statistics over sites. So: multiply by the map of active
sites before every depthwise convolution, take GRN's norm over active sites, and blank the rest once at the end. Every
site is computed, visible or not; the result on visible sites is that of the sparse encoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sizes import SIZES
from .upstream_eager import EPS, Block, LayerNorm


class MaskedGRN(nn.Module):
    """GRN of `[N, H, W, C]` with its norm over active sites `[N, H, W, 1]`, of the batch or of each sample."""

    def __init__(self, dim: int, scope: str) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, dim)), nn.Parameter(torch.zeros(1, dim))
        self.dims = (0, 1, 2) if scope == "batch" else (1, 2)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        norm = torch.norm(x * active, p=2, dim=self.dims, keepdim=True)
        return self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + EPS))) + self.beta + x


class MaskedBlock(nn.Module):
    """`[N, C, H, W]` and the map of active sites `[N, 1, H, W]`."""

    def __init__(self, dim: int, scope: str) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm(dim)
        self.pwconv1, self.grn = nn.Linear(dim, 4 * dim), MaskedGRN(4 * dim, scope)
        self.pwconv2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x * active).permute(0, 2, 3, 1))
        y = self.pwconv2(self.grn(F.gelu(self.pwconv1(y)), active.permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class MaskedDenseFCMAE(nn.Module):
    """FCMAE with patches of 32 pixels, images whose sides are multiples of 32, one decoder block of 512 channels."""

    def __init__(self, size: str, scope: str = "batch", width: int = 512, in_chans: int = 3) -> None:
        super().__init__()
        depths, dims = SIZES[size]
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, stride=4), LayerNorm(dims[0], channels_first=True))
        self.downsample_layers = nn.ModuleList([stem])
        for narrow, wide in itertools.pairwise(dims):
            layers = (LayerNorm(narrow, channels_first=True), nn.Conv2d(narrow, wide, 2, stride=2))
            self.downsample_layers.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(
            nn.ModuleList(MaskedBlock(dim, scope) for _ in range(depth))
            for depth, dim in zip(depths, dims, strict=True)
        )
        self.proj = nn.Conv2d(dims[-1], width, 1)
        self.mask_token = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.decoder = nn.Sequential(Block(width))
        self.pred = nn.Conv2d(width, 32 * 32 * in_chans, 1)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """The encoder's map `[N, C_3, h, w]`, zero at removed patches; mask `[N, h*w]`, 0 keep, 1 removed."""
        n, _, height, width = images.shape
        removed = mask.view(n, 1, height // 32, width // 32).to(images.dtype)
        x = images
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            scale = 8 >> i
            active = (1 - removed).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
            x = downsample(x)
            for block in stage:
                x = block(x, active)
        return x * active

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and prediction `[N, 32*32*C, h, w]`."""
        n, c, height, width = images.shape
        h, w = height // 32, width // 32
        removed = mask.view(n, 1, h, w).to(images.dtype)
        x = self.proj(self.encode(images, mask))
        x = x * (1 - removed) + self.mask_token * removed
        pred = self.pred(self.decoder(x))
        target = images.view(n, c, h, 32, w, 32).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, -1)
        per_patch = ((pred.flatten(2).transpose(1, 2) - target).float() ** 2).mean(dim=-1)
        return (per_patch * mask).sum() / mask.sum(), pred

    def load_sparse(self, state: Mapping[str, Tensor]) -> None:
        """Loads the state dict of the sparse FCMAE (MinkowskiEngine's names and shapes), strictly."""
        self.load_state_dict({dense_name(name): dense_value(name, value) for name, value in state.items()})


def dense_name(name: str) -> str:
    """A parameter's name here, from its name in the sparse FCMAE."""
    name = name.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
    return name.replace(".kernel", ".weight")


def dense_value(name: str, value: Tensor) -> Tensor:
    """A parameter in the dense layout: kernels have their taps y fastest, biases a leading 1."""
    if name.endswith("dwconv.kernel"):
        return value.view(7, 7, -1).permute(2, 1, 0).unsqueeze(1)
    if name.endswith(".kernel"):
        return value.view(2, 2, *value.shape[1:]).permute(3, 2, 1, 0)
    if name.endswith("bias"):
        return value.reshape(-1)
    return value
