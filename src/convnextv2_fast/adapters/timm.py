"""timm's ConvNeXt: V1 and V2, linear or 1x1-convolution MLP, whole or as a list of features."""

from __future__ import annotations

from timm import layers
from timm.layers.activations import GELU
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from .. import fusion
from ..fusion import Known, Pair, Parts
from ._drop_paths import row_scale, scale_of
from ._forwards import require
from ._swap import Swap, find_pair, run_planned, run_planned_pair

NORMS = tuple(getattr(layers, name) for name in ("LayerNorm", "LayerNormFp32") if hasattr(layers, name))
NORMS_2D = tuple(getattr(layers, name) for name in ("LayerNorm2d", "LayerNorm2dFp32") if hasattr(layers, name))
MLPS = (layers.GlobalResponseNormMlp, layers.Mlp)

for _cls, _names in (
    (ConvNeXtBlock, "conv_dw drop_path gamma mlp mul norm permute reshape shortcut use_conv_mlp"),
    (layers.GlobalResponseNormMlp, "act drop1 drop2 fc1 fc2 grn"),
    (layers.Mlp, "act drop1 drop2 fc1 fc2 norm"),
    (GlobalResponseNorm, "addcmul bias channel_dim eps mean norm spatial_dim torch view wb_shape weight"),
):
    require(_cls, _names)


def parts(block: ConvNeXtBlock) -> Parts | str:
    """Returns the block's modules, or the reason why the block is left alone."""
    mlp = block.mlp
    if type(mlp) not in MLPS:
        return f"its MLP is a {type(mlp).__name__}"
    reason = fusion.why_not_module(block.shortcut, (nn.Identity,), "the shortcut")
    if reason is not None:
        return reason
    grn = mlp.grn if type(mlp) is layers.GlobalResponseNormMlp else None
    planes = block.use_conv_mlp
    other = grn is not None and getattr(grn, "channel_dim", None) != (1 if planes else -1)

    def first(x: Tensor) -> Tensor:
        u = block.conv_dw(x)
        return block.norm(u) if planes else block.norm(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def second(u: Tensor) -> Tensor:
        return mlp(u) if planes else mlp(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return Parts(
        KNOWN[planes],
        conv=block.conv_dw,
        norm=block.norm,
        fc1=mlp.fc1,
        act=mlp.act,
        grn=grn,
        fc2=mlp.fc2,
        drop_path=block.drop_path,
        run_first=first,
        run_second=second,
        drops=(mlp.drop1, mlp.drop2) if grn is not None else (mlp.drop1, mlp.norm, mlp.drop2),
        layer_scale=block.gamma,
        second_wrappers=((mlp, MLPS, "the MLP"),),
        second_why="GRN is over another dimension" if other and type(grn) is GlobalResponseNorm else None,
    )


KNOWN = {
    planes: Known(
        norms=NORMS_2D if planes else NORMS,
        grns=(GlobalResponseNorm, type(None)),
        drop_paths=(nn.Identity, layers.DropPath) if scale_of(layers.DropPath) else (nn.Identity,),
        row_scale=row_scale,
        activations=(nn.GELU, GELU),
        linears=(nn.Linear, nn.Conv2d),
        grn_names=("weight", "bias"),
    )
    for planes in (False, True)
}
"""By whether the block's MLP takes planes."""


def block_forward(self: ConvNeXtBlock, x: Tensor) -> Tensor:
    return run_planned(self, parts, x)


def pair(m: nn.Sequential) -> Pair | None:
    """Returns the modules of a stem or downsampling layer; None for other kinds of Sequential."""
    return find_pair(m, lambda norm: type(norm) in NORMS_2D)


def patch_conv_forward(self: nn.Sequential, input: Tensor) -> Tensor:
    return run_planned_pair(self, pair, input)


SWAPS = (Swap(ConvNeXtBlock, block_forward, parts), Swap(nn.Sequential, patch_conv_forward, pair))
