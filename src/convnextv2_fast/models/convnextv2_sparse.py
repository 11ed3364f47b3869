"""FCMAE's sparse encoder: upstream's `models/convnextv2_sparse.py` without MinkowskiEngine, on packed patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import block_plans, changes, fused_modules, fusion
from ..errors import UnsupportedInputError
from ..graph import refuse_traced
from ..layouts import PatchLayout, SparseTensor
from ._groups import ParameterGroups
from ._masks import check_kept, check_shape
from ._stages import image_channels, may_be_skipped
from .convnextv2 import PARTS, PatchConv
from .minkowski import MinkowskiConvolution, MinkowskiDepthwiseConvolution, MinkowskiGELU, MinkowskiLinear
from .utils import (
    LayerNorm,
    MinkowskiDropPath,
    MinkowskiGRN,
    MinkowskiLayerNorm,
    check_scope,
    checkpointed,
    drop_path_rates,
    grn_groups,
    trunc_normal_,
    zero_,
)

STEM_STRIDE = 4
ENCODER_STRIDE = 32


class Block(nn.Module):
    """Sparse ConvNeXt V2 block on :class:`SparseTensor`: its halves run as those of the dense block do.

    Args:
        dim: channels C.
        drop_path: stochastic depth rate.
        D: dimension of the space; 2 (upstream's default of 3 is accepted, the sites are planar all the same).
        grn_scope, grn_eps: of :class:`MinkowskiGRN`.
    """

    def __init__(
        self, dim: int, drop_path: float = 0.0, D: int = 3, grn_scope: str = "batch", grn_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.dwconv = MinkowskiDepthwiseConvolution(dim, kernel_size=7, bias=True, dimension=D)
        self.norm = MinkowskiLayerNorm(dim, 1e-6)
        self.pwconv1 = MinkowskiLinear(dim, 4 * dim)
        self.act = MinkowskiGELU()
        self.pwconv2 = MinkowskiLinear(4 * dim, dim)
        self.grn = MinkowskiGRN(4 * dim, grn_scope=grn_scope, grn_eps=grn_eps)
        self.drop_path = MinkowskiDropPath(drop_path)

    def parts(self) -> fusion.Parts:
        """The modules of this block as they are now, and which of them a fused op may stand for."""
        m = self._modules  # several times faster than attributes, which a function in a module's place is
        conv, norm, fc1, act, grn, fc2, drop_path = [m[name] if name in m else getattr(self, name) for name in PARTS]
        return fusion.Parts(
            _KNOWN,
            conv=conv,
            norm=_inside(norm, "ln"),
            fc1=_inside(fc1, "linear"),
            act=_inside(act, "module"),
            grn=grn,
            fc2=_inside(fc2, "linear"),
            drop_path=drop_path,
            run_first=self._first,
            run_second=self._second,
            rows_per_group=_rows_per_group,
            first_wrappers=((norm, (MinkowskiLayerNorm,), "the norm"),),
            second_wrappers=(
                (fc1, (MinkowskiLinear,), "the first linear layer"),
                (act, (MinkowskiGELU,), "the activation"),
                (fc2, (MinkowskiLinear,), "the second linear layer"),
            ),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = block_plans.run(self, x)
        return fused_modules.run_block(self.parts(), x, self) if y is None else y

    def _first(self, x: SparseTensor) -> SparseTensor:
        return self.norm(self.dwconv(x))

    def _second(self, u: SparseTensor) -> SparseTensor:
        return self.pwconv2(self.grn(self.act(self.pwconv1(u))))


def _rows_per_group(grn: MinkowskiGRN, x: SparseTensor) -> int | Tensor:
    return grn_groups(x, grn.grn_scope)


def _inside(wrapper: Any, name: str) -> nn.Module | None:
    """The module of that name in another; None where a user has put a module without one in its place."""
    return getattr(wrapper, "_modules", {}).get(name)


_KNOWN = fusion.Known(
    norms=(nn.LayerNorm,),
    grns=(MinkowskiGRN,),
    drop_paths=(MinkowskiDropPath,),
    row_scale=MinkowskiDropPath.row_scale,
    conv=MinkowskiDepthwiseConvolution,
)


changes.remember(MinkowskiConvolution, MinkowskiDepthwiseConvolution, MinkowskiGELU, MinkowskiLinear)
changes.remember(MinkowskiDropPath, MinkowskiGRN, MinkowskiLayerNorm)


class SparsePatchConv(nn.Sequential):
    """Downsampling `(MinkowskiLayerNorm, MinkowskiConvolution)` on :class:`SparseTensor`, run as one op."""

    def parts(self) -> fusion.Pair | str:
        """The two modules as they are now, or why this is no such pair any more."""
        if len(self) != 2:
            return f"it has {len(self)} modules"
        norm, conv = self
        return fusion.Pair(
            conv,
            _inside(norm, "ln"),
            norms=(nn.LayerNorm,),
            norm_first=True,
            conv_class=MinkowskiConvolution,
            wrappers=((norm, (MinkowskiLayerNorm,), "the norm"),),
        )

    def forward(self, input: SparseTensor) -> SparseTensor:
        rows = fused_modules.run_pair(self.parts(), input.F, input.layout)
        if rows is None:
            return super().forward(input)
        conv: Any = self[1]
        return SparseTensor(rows, input.layout.coarsen(conv.kernel_size)[0])


class SparseConvNeXtV2(ParameterGroups):
    """Sparse ConvNeXt V2 encoder. No head and no final norm, as upstream.

    Args:
        in_chans, depths, dims, drop_path_rate: as in the dense model. `num_classes` is kept as an attribute only.
        D: as in :class:`Block`.
        grn_scope: "batch" (upstream's) or "sample".
        grn_eps: eps of every GRN.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        drop_path_rate: float = 0.0,
        D: int = 3,
        grn_scope: str = "batch",
        grn_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.depths, self.dims = list(depths), list(dims)
        self.num_classes = num_classes
        self.grn_scope = check_scope(grn_scope)
        self.grad_checkpointing = False
        self.downsample_layers = nn.ModuleList()
        stem = PatchConv(
            nn.Conv2d(in_chans, dims[0], kernel_size=STEM_STRIDE, stride=STEM_STRIDE),
            LayerNorm(dims[0], eps=1e-6, data_format="channels_first"),
        )
        self.downsample_layers.append(stem)
        for i in range(3):
            conv = MinkowskiConvolution
            self.downsample_layers.append(
                SparsePatchConv(
                    MinkowskiLayerNorm(dims[i], eps=1e-6),
                    conv(dims[i], dims[i + 1], kernel_size=2, stride=2, bias=True, dimension=D),
                )
            )
        self.stages = nn.ModuleList()
        rates = drop_path_rates(drop_path_rate, depths)
        for dim, depth in zip(dims, depths, strict=True):
            blocks = [Block(dim, next(rates), D, grn_scope=grn_scope, grn_eps=grn_eps) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
        self.apply(self._init_weights)

    def _init_weights(self, m: nn.Module) -> None:
        if isinstance(m, MinkowskiConvolution | MinkowskiDepthwiseConvolution):
            trunc_normal_(m.kernel, std=0.02)
            zero_(m.bias)
        if isinstance(m, MinkowskiLinear):
            trunc_normal_(m.linear.weight, std=0.02)
            zero_(m.linear.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes each block in backward instead of saving its activations. A stage with hooks or a forward of its
        own is called as it is, and saves them."""
        self.grad_checkpointing = enable

    def upsample_mask(self, mask: Tensor, scale: int) -> Tensor:
        """`[N, L]` (square) or `[N, h, w]` to `[N, h*scale, w*scale]`.

        Raises:
            UnsupportedInputError: another rank, or L is no square.
        """
        if mask.ndim == 2:
            p = int(mask.shape[1] ** 0.5)
            if p * p != mask.shape[1]:
                raise UnsupportedInputError(
                    f"upsample_mask: {mask.shape[1]} patches are no square; give the mask as [N, h, w]"
                )
            mask = mask.reshape(-1, p, p)
        if mask.ndim != 3:
            raise UnsupportedInputError(f"upsample_mask: wants [N, L] or [N, h, w], got {tuple(mask.shape)}")
        return mask.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)

    def _layout(self, x: Tensor, mask: Tensor | None, patch_size: int | None, kept: int | None) -> PatchLayout:
        """The layout of the stem's output. The mask's length gives the patch size where it is not given."""
        refuse_traced(x, "SparseConvNeXtV2")
        channels = image_channels(self.downsample_layers[0])
        if x.ndim != 4 or (channels is not None and x.shape[1] != channels) or not x.is_floating_point():
            wanted = "C" if channels is None else channels
            raise UnsupportedInputError(
                f"SparseConvNeXtV2: wants floating-point images [N, {wanted}, H, W], got {tuple(x.shape)} {x.dtype}"
            )
        n, _, h, w = x.shape
        if mask is None:
            patch_size = patch_size or ENCODER_STRIDE
            mask = x.new_zeros(n, (h // patch_size) * (w // patch_size))
            kept = mask.shape[1]
        if patch_size is None:
            cells = mask.shape[1] if mask.ndim == 2 else mask.shape[1] * mask.shape[2]
            patch_size = round((h * w / cells) ** 0.5) if cells else ENCODER_STRIDE
        step = max(patch_size, ENCODER_STRIDE)
        tile, rest = divmod(patch_size, STEM_STRIDE)
        if rest or tile < 1 or tile & (tile - 1):
            raise UnsupportedInputError(
                f"SparseConvNeXtV2: the patch size must be {STEM_STRIDE} x 2**k, got {patch_size} "
                f"(images {tuple(x.shape)}, mask {tuple(mask.shape)})"
            )
        if h % step or w % step:
            raise UnsupportedInputError(
                f"SparseConvNeXtV2: H and W must be multiples of {step} with patches of {patch_size}, got {h}x{w}"
            )
        grid = (h // patch_size, w // patch_size)
        check_shape(mask, n, grid, "SparseConvNeXtV2", patch_size)
        mask = mask.flatten(1)
        check_kept(mask, kept)
        return PatchLayout.from_mask(mask, tile, grid=grid, kept=kept)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, patch_size: int | None = None, kept: int | None = None
    ) -> Tensor:
        """Encodes the kept patches.

        Args:
            x: images `[N, in_chans, H, W]`; H and W multiples of 32 and of the patch size.
            mask: `[N, L]` or `[N, h, w]`, 0 keep, 1 removed; None keeps all.
            patch_size: 4 * 2**k pixels; taken from the mask's length if not given.
            kept: patches kept in every sample, where known: spares reading the mask back from a GPU.
        Returns:
            `[N, C_3, H/32, W/32]`, zeros where no child site is active. The size comes from the images, so unlike
            upstream's it does not shrink when the last row of patches is masked in every sample; and a visible patch
            stays active whatever its values.
        Raises:
            UnsupportedInputError: sizes, mask, kept and patch size do not fit.
        """
        layout = self._layout(x, mask, patch_size, kept)
        stem: Any = self.downsample_layers[0]
        # Models saved whole by earlier versions have an nn.Sequential here.
        whole = type(stem) in (PatchConv, nn.Sequential) and changes.touched(stem) is None
        rows = fused_modules.run_pair(PatchConv.parts(stem), x, layout) if whole else None
        if rows is None:
            rows = layout.from_dense(stem(x).permute(0, 2, 3, 1))
        sparse = SparseTensor(rows, layout)
        for i in range(4):
            if i > 0:
                sparse = self.downsample_layers[i](sparse)
            stage: Any = self.stages[i]
            recomputed = self.grad_checkpointing and self.training and torch.is_grad_enabled()
            if recomputed and may_be_skipped(stage):
                for block in stage:
                    sparse = self._recomputed(block, sparse)
            else:
                sparse = stage(sparse)
        return sparse.dense()[0]

    @staticmethod
    def _recomputed(block: nn.Module, x: SparseTensor) -> SparseTensor:
        # checkpoint sees tensors only: the layout carries no gradient
        rows = checkpointed(lambda f: block(x.replace(f)).F, x.F)
        return x.replace(rows)
