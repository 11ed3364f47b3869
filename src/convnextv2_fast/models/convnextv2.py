"""The dense ConvNeXt V2: upstream's `models/convnextv2.py` on this library's ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import block_plans, changes, fused_modules, fusion, pair_plans, plain
from ..errors import UnsupportedInputError
from ..graph import as_leaf, is_traced
from ._groups import ParameterGroups
from ._stages import image_channels, may_be_skipped
from .utils import GRN, DropPath, LayerNorm, checkpointed, drop_path_rates, trunc_normal_, zero_

SIZES: dict[str, tuple[list[int], list[int]]] = {
    "atto": ([2, 2, 6, 2], [40, 80, 160, 320]),
    "femto": ([2, 2, 6, 2], [48, 96, 192, 384]),
    "pico": ([2, 2, 6, 2], [64, 128, 256, 512]),
    "nano": ([2, 2, 8, 2], [80, 160, 320, 640]),
    "tiny": ([3, 3, 9, 3], [96, 192, 384, 768]),
    "base": ([3, 3, 27, 3], [128, 256, 512, 1024]),
    "large": ([3, 3, 27, 3], [192, 384, 768, 1536]),
    "huge": ([3, 3, 27, 3], [352, 704, 1408, 2816]),
}
"""(depths, dims) of the eight models."""


class Block(nn.Module):
    """ConvNeXt V2 block: depthwise 7x7, LayerNorm, Linear, GELU, GRN, Linear, drop path, residual.

    Input and output `[N, C, H, W]`, channels_last strides. Each half runs as one op, or as modules where one of its
    modules was changed.

    Args:
        dim: channels C.
        drop_path: stochastic depth rate.
        grn_eps: eps of GRN.
    """

    def __init__(self, dim: int, drop_path: float = 0.0, grn_eps: float = 1e-6) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.grn = GRN(4 * dim, eps=grn_eps)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def parts(self) -> fusion.Parts:
        """The modules of this block as they are now, and which of them a fused op may stand for."""
        m = self._modules  # several times faster than attributes, which a function in a module's place is
        conv, norm, fc1, act, grn, fc2, drop_path = [m[name] if name in m else getattr(self, name) for name in PARTS]
        return fusion.Parts(_KNOWN, conv, norm, fc1, act, grn, fc2, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = block_plans.run(self, x)
        if y is not None:
            return y
        node = as_leaf(self, x)
        return fused_modules.run_block(self.parts(), x, self) if node is None else node


def _row_scale(drop_path: DropPath, u: Tensor) -> Tensor | None:
    return drop_path.row_scale(u, u.shape[0])


PARTS = ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2", "drop_path")  # in the order of fusion.Parts
_KNOWN = fusion.Known(norms=(LayerNorm,), grns=(GRN,), drop_paths=(nn.Identity, DropPath), row_scale=_row_scale)
changes.remember(LayerNorm, GRN, DropPath)


class PatchConv(nn.Sequential):
    """Stem `(Conv2d, LayerNorm)` or downsampling `(LayerNorm, Conv2d)` of upstream, run as one op. `[N, C, H, W]`."""

    def parts(self) -> fusion.Pair | str:
        """The two modules as they are now, or why this is no such pair any more."""
        if len(self) != 2:
            return f"it has {len(self)} modules"
        a, b = self
        norm_first = isinstance(a, LayerNorm) or isinstance(b, nn.Conv2d)
        return fusion.Pair(*((b, a) if norm_first else (a, b)), norms=(LayerNorm,), norm_first=norm_first)

    def forward(self, input: Tensor) -> Tensor:
        node = as_leaf(self, input)
        if node is not None:
            return node
        y = pair_plans.run(self, input)
        if y is not None:
            return y
        y = fused_modules.run_pair(self.parts(), input, module=self)
        return super().forward(input) if y is None else y


class ConvNeXtV2(ParameterGroups):
    """ConvNeXt V2 (Woo et al., arXiv 2301.00808).

    Args:
        in_chans: input channels.
        num_classes: classes of the head; 0 for none.
        depths: blocks of the four stages.
        dims: channels of the four stages.
        drop_path_rate: of the last block; linear from 0.
        head_init_scale: factor on the head's initial weight and bias.
        features_only: :meth:`forward` returns the stages' maps, and there is no final norm and head.
        out_indices: the stages that :meth:`forward_features_list` returns.
        out_norms: normalise each returned map by a LayerNorm `norm0` .. `norm3` of its own, as detection and
            segmentation frameworks do (they are not in any classification checkpoint).
        grn_eps: eps of every GRN.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        drop_path_rate: float = 0.0,
        head_init_scale: float = 1.0,
        features_only: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norms: bool = False,
        grn_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.depths, self.dims = list(depths), list(dims)
        self.num_classes = num_classes
        self.features_only, self.out_indices = features_only, tuple(out_indices)
        if not set(self.out_indices) <= {0, 1, 2, 3}:
            raise ValueError(f"out_indices are stages 0 to 3, got {self.out_indices}")
        self.grad_checkpointing = False
        self.downsample_layers = nn.ModuleList()
        stem = nn.Conv2d(in_chans, dims[0], kernel_size=4, stride=4)
        self.downsample_layers.append(PatchConv(stem, LayerNorm(dims[0], eps=1e-6, data_format="channels_first")))
        for i in range(3):
            norm = LayerNorm(dims[i], eps=1e-6, data_format="channels_first")
            self.downsample_layers.append(PatchConv(norm, nn.Conv2d(dims[i], dims[i + 1], kernel_size=2, stride=2)))

        self.stages = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, depths)
        for dim, depth in zip(dims, depths, strict=True):
            self.stages.append(nn.Sequential(*[Block(dim, next(rates), grn_eps=grn_eps) for _ in range(depth)]))

        self.norm: nn.Module = nn.Identity() if features_only else nn.LayerNorm(dims[-1], eps=1e-6)
        self.head: nn.Module = self._new_head(0 if features_only else num_classes)
        for i in self.out_indices if out_norms else ():
            self.add_module(f"norm{i}", LayerNorm(dims[i], eps=1e-6, data_format="channels_first"))
        self.apply(self._init_weights)
        if isinstance(self.head, nn.Linear):
            self.head.weight.data.mul_(head_init_scale)
            self.head.bias.data.mul_(head_init_scale)

    def _new_head(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.dims[-1], num_classes) if num_classes > 0 else nn.Identity()

    def _init_weights(self, m: nn.Module) -> None:
        if isinstance(m, nn.Conv2d | nn.Linear):
            trunc_normal_(m.weight, std=0.02)
            zero_(m.bias)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, stride and module of each returned map, in timm's form."""
        return [{"num_chs": self.dims[i], "reduction": 4 * 2**i, "module": f"stages.{i}"} for i in self.out_indices]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in backward instead of saving its activations (torch.utils.checkpoint). A stage with
        hooks or a forward of its own is called as it is, and saves them."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The head: `nn.Linear`, or `nn.Identity` where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the head by a fresh one, on the same device and in the same dtype; 0 classes for none."""
        self.num_classes = num_classes
        head = self._new_head(num_classes)
        head.apply(self._init_weights)
        p = next(self.parameters())
        self.head = head.to(device=p.device, dtype=p.dtype)

    def _check(self, x: Tensor) -> None:
        if plain.recorded_by_jit() or is_traced(x):  # sizes are tensors then, or there is nothing to look at
            return
        channels = image_channels(self.downsample_layers[0])
        if x.ndim != 4 or (channels is not None and x.shape[1] != channels):
            wanted = "C" if channels is None else channels
            raise UnsupportedInputError(f"ConvNeXtV2: wants images [N, {wanted}, H, W], got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise UnsupportedInputError(
                f"ConvNeXtV2: wants floating-point images, got {x.dtype}; convert with .float() / 255 and normalise"
            )
        if x.shape[2] < 32 or x.shape[3] < 32:
            raise UnsupportedInputError(
                f"ConvNeXtV2: H and W must be at least 32 (stem 4, three halvings), got {x.shape[2]}x{x.shape[3]}"
            )

    def _stages(self, x: Tensor) -> list[Tensor]:
        self._check(x)
        maps = []
        stage: Any
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = downsample(x)
            recomputed = self.grad_checkpointing and self.training and torch.is_grad_enabled()
            if recomputed and may_be_skipped(stage):
                for block in stage:
                    x = checkpointed(block, x)
            else:
                x = stage(x)
            maps.append(x)
        return maps

    def forward_features_list(self, x: Tensor) -> list[Tensor]:
        """The maps of the stages in `out_indices`: `[N, C_i, H >> (2+i), W >> (2+i)]`, normed if so asked."""
        maps = self._stages(x)
        norms = [getattr(self, f"norm{i}", None) for i in self.out_indices]
        return [maps[i] if norm is None else norm(maps[i]) for i, norm in zip(self.out_indices, norms, strict=True)]

    def forward_features(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` images to the pooled, normed vector `[N, C_3]`."""
        return self.norm(self._stages(x)[-1].mean([-2, -1]))

    def forward(self, x: Tensor) -> Any:
        """Images `[N, in_chans, H, W]` to logits `[N, num_classes]`, or to a list of maps with `features_only`.

        Raises:
            UnsupportedInputError: wrong rank, channels, dtype, or H or W under 32.
        """
        if self.features_only:
            return self.forward_features_list(x)
        return self.head(self.forward_features(x))


def _build(size: str, kwargs: dict[str, Any]) -> ConvNeXtV2:
    depths, dims = SIZES[size]
    return ConvNeXtV2(depths=depths, dims=dims, **kwargs)


def convnextv2_atto(**kwargs: Any) -> ConvNeXtV2:
    """depths 2, 2, 6, 2; dims 40, 80, 160, 320; 3.7 M parameters. Keyword arguments of :class:`ConvNeXtV2`."""
    return _build("atto", kwargs)


def convnextv2_femto(**kwargs: Any) -> ConvNeXtV2:
    """depths 2, 2, 6, 2; dims 48, 96, 192, 384; 5.2 M parameters."""
    return _build("femto", kwargs)


def convnextv2_pico(**kwargs: Any) -> ConvNeXtV2:
    """depths 2, 2, 6, 2; dims 64, 128, 256, 512; 9.1 M parameters."""
    return _build("pico", kwargs)


convnext_pico = convnextv2_pico  # upstream's spelling


def convnextv2_nano(**kwargs: Any) -> ConvNeXtV2:
    """depths 2, 2, 8, 2; dims 80, 160, 320, 640; 15.6 M parameters."""
    return _build("nano", kwargs)


def convnextv2_tiny(**kwargs: Any) -> ConvNeXtV2:
    """depths 3, 3, 9, 3; dims 96, 192, 384, 768; 28.6 M parameters."""
    return _build("tiny", kwargs)


def convnextv2_base(**kwargs: Any) -> ConvNeXtV2:
    """depths 3, 3, 27, 3; dims 128, 256, 512, 1024; 88.7 M parameters."""
    return _build("base", kwargs)


def convnextv2_large(**kwargs: Any) -> ConvNeXtV2:
    """depths 3, 3, 27, 3; dims 192, 384, 768, 1536; 198 M parameters."""
    return _build("large", kwargs)


def convnextv2_huge(**kwargs: Any) -> ConvNeXtV2:
    """depths 3, 3, 27, 3; dims 352, 704, 1408, 2816; 660 M parameters."""
    return _build("huge", kwargs)
