"""timm's ConvNeXt: V1 and V2, linear or 1x1-convolution MLP, whole or as a list of features."""

from __future__ import annotations

from typing import Any

from timm import layers
from timm.layers.activations import GELU
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from ..models.utils import drop_path_scale
from . import _block, _patch_conv
from ._swap import Inspection, Swap, original_forward

NORMS = tuple(getattr(layers, name) for name in ("LayerNorm", "LayerNormFp32") if hasattr(layers, name))
NORMS_2D = tuple(getattr(layers, name) for name in ("LayerNorm2d", "LayerNorm2dFp32") if hasattr(layers, name))


def parts(block: ConvNeXtBlock) -> _block.Parts | str:
    """Returns the block's modules, or the reason why the block is left alone."""
    mlp = block.mlp
    if type(block.shortcut) is not nn.Identity:
        return "it changes channels, stride or dilation"
    if type(mlp) not in (layers.GlobalResponseNormMlp, layers.Mlp) or _block.touched(mlp):
        return f"its MLP is a {type(mlp).__name__}, or has hooks"
    grn = getattr(mlp, "grn", None)
    if grn is not None and type(grn) is not GlobalResponseNorm:
        return f"its GRN is a {type(grn).__name__}"

    def first(x: Tensor) -> Tensor:
        u = block.conv_dw(x)
        if block.use_conv_mlp:
            return block.norm(u).permute(0, 2, 3, 1)
        return block.norm(u.permute(0, 2, 3, 1))

    def second(u: Tensor) -> Tensor:
        return mlp(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if block.use_conv_mlp else mlp(u)

    return _block.Parts(
        conv=block.conv_dw,
        norm=block.norm,
        norms=NORMS_2D if block.use_conv_mlp else NORMS,
        fc1=mlp.fc1,
        act=mlp.act,
        activations=(nn.GELU, GELU),
        grn=grn,
        grn_parameters=(None, None) if grn is None else (grn.weight, grn.bias),
        grn_eps=1e-6 if grn is None else grn.eps,
        fc2=mlp.fc2,
        drops=(mlp.drop1, mlp.drop2) if grn is not None else (mlp.drop1, mlp.norm, mlp.drop2),
        layer_scale=block.gamma,
        drop_path=block.drop_path,
        drop_paths=(layers.DropPath,),
        row_scale=row_scale,
        run_first=first,
        run_second=second,
    )


def row_scale(drop_path: Any, u: Tensor) -> Tensor | None:
    """The factors `[N]` that timm's DropPath draws for u `[N, H, W, C]`."""
    if drop_path.drop_prob == 0.0:
        return None
    return drop_path_scale(u, u.shape[0], drop_path.drop_prob, drop_path.scale_by_keep)


def block_forward(self: ConvNeXtBlock, x: Tensor) -> Tensor:
    found = parts(self)
    return original_forward(self, x) if isinstance(found, str) else _block.run(found, x)


def _pair(m: nn.Sequential) -> tuple[nn.Module, nn.Module, bool] | None:
    """Returns convolution, LayerNorm, and whether LayerNorm comes first; None for other kinds of Sequential."""
    if len(m) != 2:
        return None
    a, b = m[0], m[1]
    if type(a) is nn.Conv2d and type(b) in NORMS_2D:
        return a, b, False
    return (b, a, True) if type(a) in NORMS_2D and type(b) is nn.Conv2d else None


def inspect_pair(m: nn.Sequential) -> Inspection | None:
    pair = _pair(m)
    return None if pair is None else _patch_conv.inspect(*pair[:2], NORMS_2D)


def patch_conv_forward(self: nn.Sequential, input: Tensor) -> Tensor:
    pair = _pair(self)
    y = None if pair is None else _patch_conv.run(input, *pair[:2], NORMS_2D, norm_first=pair[2])
    return original_forward(self, input) if y is None else y


SWAPS = (
    Swap(ConvNeXtBlock, block_forward, lambda m: _block.inspect(parts(m))),
    Swap(nn.Sequential, patch_conv_forward, inspect_pair),
)
