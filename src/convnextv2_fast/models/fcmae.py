"""FCMAE, the fully convolutional masked autoencoder: upstream's `models/fcmae.py` without MinkowskiEngine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import fusion
from ..errors import UnsupportedInputError
from ..graph import refuse_traced
from ..layouts import PatchLayout
from ..ops._shared.checks import keep_strides
from . import _patches
from ._groups import ParameterGroups
from ._masks import check_ratio, check_shape, check_visible, kept_patches, zeros_and_ones
from ._patch_loss import patch_loss
from .convnextv2 import SIZES, Block
from .convnextv2_sparse import ENCODER_STRIDE, STEM_STRIDE, SparseConvNeXtV2
from .minkowski import MinkowskiConvolution, MinkowskiDepthwiseConvolution, MinkowskiLinear
from .utils import trunc_normal_, zero_


class FCMAE(ParameterGroups):
    """Masked autoencoder with a sparse ConvNeXt V2 encoder and a small dense decoder (Woo et al., arXiv 2301.00808).

    Args:
        img_size: sets the attribute `num_patches` only; sizes are read off the images, which need not be square.
        in_chans: image channels, any number.
        depths: blocks of the encoder's four stages.
        dims: channels of the encoder's four stages.
        decoder_depth: blocks of the decoder.
        decoder_embed_dim: channels of the decoder.
        patch_size: 4 * 2**k pixels. Where it is not the encoder's stride of 32, the encoder's map is brought to the
            patch grid behind `proj`: repeated for smaller patches, averaged over the patch for larger ones.
        mask_ratio: an attribute only, as upstream: :meth:`forward` takes its own.
        norm_pix_loss: the targets are normalised patch by patch (unbiased variance).
        grn_scope: "batch" (upstream's PyTorch code) or "sample" (the paper), of the encoder's GRN.
        grn_eps: eps of every GRN.
        init: "upstream" keeps upstream's initialisation, whose truncated normal has a std of 1 nearly everywhere (large
            activations, unsafe in float16); "std02" takes .02 throughout.
    Raises:
        UnsupportedInputError: an impossible patch size, or an unknown `init` or `grn_scope`.
    """

    _BODY = "encoder."

    def __init__(
        self,
        img_size: int = 224,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        decoder_depth: int = 1,
        decoder_embed_dim: int = 512,
        patch_size: int = 32,
        mask_ratio: float = 0.6,
        norm_pix_loss: bool = False,
        grn_scope: str = "batch",
        grn_eps: float = 1e-6,
        init: str = "upstream",
    ) -> None:
        super().__init__()
        tile, rest = divmod(patch_size, STEM_STRIDE)
        if rest or tile < 1 or tile & (tile - 1):
            raise UnsupportedInputError(f"FCMAE: patch_size must be {STEM_STRIDE} x 2**k, got {patch_size}")
        if init not in ("upstream", "std02"):
            raise UnsupportedInputError(f"FCMAE: init must be 'upstream' or 'std02', got {init!r}")
        self.img_size = img_size
        self.in_chans = in_chans
        self.depths = list(depths)
        self.imds = list(dims)  # upstream's spelling
        self.patch_size = patch_size
        self.mask_ratio = mask_ratio
        self.num_patches = (img_size // patch_size) ** 2
        self.decoder_embed_dim = decoder_embed_dim
        self.decoder_depth = decoder_depth
        self.norm_pix_loss = norm_pix_loss

        self.encoder = SparseConvNeXtV2(
            in_chans=in_chans, depths=depths, dims=dims, D=2, grn_scope=grn_scope, grn_eps=grn_eps
        )
        self.proj = nn.Conv2d(dims[-1], decoder_embed_dim, kernel_size=1)
        self.mask_token = nn.Parameter(torch.zeros(1, decoder_embed_dim, 1, 1))
        self.decoder = nn.Sequential(*[Block(decoder_embed_dim, 0.0, grn_eps=grn_eps) for _ in range(decoder_depth)])
        self.pred = nn.Conv2d(decoder_embed_dim, patch_size**2 * in_chans, kernel_size=1)
        self.apply(self._init_upstream if init == "upstream" else self._init_std02)
        if init == "std02":
            nn.init.normal_(self.mask_token, std=0.02)

    def _init_upstream(self, m: nn.Module) -> None:
        if isinstance(m, MinkowskiConvolution):
            trunc_normal_(m.kernel, std=0.02)
            zero_(m.bias)
        if isinstance(m, MinkowskiDepthwiseConvolution):
            trunc_normal_(m.kernel)
            zero_(m.bias)
        if isinstance(m, MinkowskiLinear):
            trunc_normal_(m.linear.weight)
            zero_(m.linear.bias)
        if isinstance(m, nn.Conv2d):
            trunc_normal_(m.weight.data.view(m.weight.shape[0], -1))
            zero_(m.bias)
        if isinstance(m, nn.LayerNorm):
            zero_(m.bias)
            nn.init.constant_(m.weight, 1.0)
        # Drawn again at every module visited: upstream's order of random numbers.
        nn.init.normal_(self.mask_token, std=0.02)

    @staticmethod
    def _init_std02(m: nn.Module) -> None:
        if isinstance(m, MinkowskiConvolution | MinkowskiDepthwiseConvolution):
            trunc_normal_(m.kernel, std=0.02)
            zero_(m.bias)
        if isinstance(m, nn.Conv2d | nn.Linear):
            trunc_normal_(m.weight, std=0.02)
            zero_(m.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the encoder's blocks in backward instead of saving their activations."""
        self.encoder.set_grad_checkpointing(enable)

    def grid(self, imgs: Tensor) -> tuple[int, int]:
        """Patches `(h, w)` of images `[N, C, H, W]`.

        Raises:
            UnsupportedInputError: not such images, or H or W no multiple of the patch size.
        """
        p = self.patch_size
        if imgs.ndim != 4 or imgs.shape[1] != self.in_chans or not imgs.is_floating_point():
            raise UnsupportedInputError(
                f"FCMAE: wants floating-point images [N, {self.in_chans}, H, W], got {tuple(imgs.shape)} {imgs.dtype}"
            )
        h, w = imgs.shape[2] // p, imgs.shape[3] // p
        if h < 1 or w < 1 or imgs.shape[2] % p or imgs.shape[3] % p:
            raise UnsupportedInputError(
                f"FCMAE: H and W must be multiples of the patch size {p}, got {imgs.shape[2]}x{imgs.shape[3]}"
            )
        return h, w

    def patchify(self, imgs: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, L, p*p*C]`, patches row-major, (row, column, channel) within a patch."""
        self.grid(imgs)
        return _patches.patchify(imgs, self.patch_size)

    def unpatchify(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """The inverse of :meth:`patchify`, to images `[N, C, H, W]`.

        Args:
            x: patches `[N, L, p*p*C]`, as :meth:`patchify` gives them, or `[N, p*p*C, h, w]`, as :meth:`forward`
                predicts them.
            grid: `(h, w)`, the patches of an image. If it is not given, that of a prediction is its own, and that of
                rows is square.
        Raises:
            UnsupportedInputError: x has another shape, or L is not h*w.
        """
        return _patches.unpatchify(x, self.patch_size, self.in_chans, grid)

    def gen_random_mask(self, x: Tensor, mask_ratio: float) -> Tensor:
        """float32 `[N, L]`, 0 keep, 1 removed: `int(L * (1 - ratio))` kept per sample, upstream's draws.

        Raises:
            UnsupportedInputError: a ratio outside [0, 1], or one that keeps no patch.
        """
        h, w = self.grid(x)
        check_ratio((h, w), self.patch_size, mask_ratio)
        length = h * w
        keep = self._keep(length, mask_ratio)
        noise = torch.randn(x.shape[0], length, device=x.device)
        ids_restore = torch.argsort(torch.argsort(noise, dim=1), dim=1)
        mask = torch.ones([x.shape[0], length], device=x.device)
        mask[:, :keep] = 0
        return torch.gather(mask, dim=1, index=ids_restore)

    _keep = staticmethod(kept_patches)

    def upsample_mask(self, mask: Tensor, scale: int) -> Tensor:
        """`[N, L]` (square) or `[N, h, w]` to `[N, h*scale, w*scale]`."""
        return self.encoder.upsample_mask(mask, scale)

    def _mask(
        self, imgs: Tensor, mask_ratio: float, mask: Tensor | None, kept: int | None
    ) -> tuple[Tensor, int | None]:
        """The mask `[N, L]`, drawn if not given, and the patches that each sample keeps, where that is known."""
        h, w = self.grid(imgs)
        if mask is None:
            return self.gen_random_mask(imgs, mask_ratio), self._keep(h * w, mask_ratio)
        check_shape(mask, imgs.shape[0], (h, w), "FCMAE", self.patch_size)
        mask = mask.flatten(1)
        return check_visible(mask, kept), kept

    def forward_encoder(
        self, imgs: Tensor, mask_ratio: float = 0.6, mask: Tensor | None = None, kept: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The encoder's map `[N, C_3, H/32, W/32]` and the mask `[N, L]`; arguments of :meth:`forward`."""
        mask, kept = self._mask(imgs, mask_ratio, mask, kept)
        return self.encoder(imgs, mask, patch_size=self.patch_size, kept=kept), mask

    def _to_patch_grid(self, x: Tensor) -> Tensor:
        if self.patch_size < ENCODER_STRIDE:
            r = ENCODER_STRIDE // self.patch_size
            return x.repeat_interleave(r, dim=2).repeat_interleave(r, dim=3)
        if self.patch_size > ENCODER_STRIDE:
            return F.avg_pool2d(x, self.patch_size // ENCODER_STRIDE)
        return x

    def _decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """The encoder's map and the mask to the decoder's features `[N, decoder_embed_dim, h, w]`."""
        x = self._to_patch_grid(_pointwise(self.proj, x, "the projection"))
        n, _, h, w = x.shape
        check_shape(mask, n, (h, w), "FCMAE", self.patch_size)
        removed = mask.reshape(n, h, w).unsqueeze(1).type_as(x)
        return self.decoder(x * (1.0 - removed) + keep_strides(self.mask_token).to(x.dtype) * removed)

    def forward_decoder(self, x: Tensor, mask: Tensor) -> Tensor:
        """The encoder's map and the mask to predictions `[N, p*p*C, h, w]` on the patch grid."""
        return _pointwise(self.pred, self._decode(x, zeros_and_ones(mask, "FCMAE.forward_decoder")), "the prediction")

    def _predict(self, features: Tensor, patches: Tensor) -> Tensor:
        """Predictions `[T, p*p*C]` of those patches (positions in `[N, h, w]`) alone."""
        if fusion.why_not_any() or fusion.why_not_linear(self.pred, (nn.Conv2d,), "the prediction"):
            return self.pred(features).permute(0, 2, 3, 1).flatten(0, 2)[patches]
        rows = features.permute(0, 2, 3, 1).flatten(0, 2)[patches]
        return F.linear(rows, self.pred.weight.flatten(1), self.pred.bias)

    def forward_loss(self, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error over removed patches, a scalar, in float32 at least; NaN where none was removed, as
        upstream, or where there is no image.

        Args:
            imgs: `[N, C, H, W]`.
            pred: `[N, p*p*C, h, w]` or `[N, L, p*p*C]`.
            mask: `[N, L]` or `[N, h, w]`, 1 removed.
        Raises:
            UnsupportedInputError: the three do not fit each other.
        """
        grid = self.grid(imgs)
        rows, target = _patches.rows_of(pred, self.patch_size, self.in_chans, "FCMAE.forward_loss"), self.patchify(imgs)
        if rows.shape != target.shape or (pred.ndim == 4 and pred.shape[2:] != grid):
            raise UnsupportedInputError(
                f"FCMAE.forward_loss: images {tuple(imgs.shape)} have {grid[0]}x{grid[1]} patches each, the "
                f"predictions are {tuple(pred.shape)}"
            )
        check_shape(mask, imgs.shape[0], grid, "FCMAE.forward_loss", self.patch_size)
        weight = zeros_and_ones(mask, "FCMAE.forward_loss").flatten()
        return patch_loss(rows.flatten(0, 1), target.flatten(0, 1), weight, self.norm_pix_loss)

    def forward(
        self,
        imgs: Tensor,
        labels: Tensor | None = None,
        mask_ratio: float = 0.6,
        mask: Tensor | None = None,
        kept: int | None = None,
        full_pred: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pre-training step's forward.

        Args:
            imgs: `[N, in_chans, H, W]`, H and W multiples of 32 and of the patch size.
            labels: ignored, as upstream.
            mask_ratio: share of patches to remove, where no mask is given; at least one patch must stay visible.
            mask: `[N, L]` or `[N, h, w]` of any dtype, 0 keep, 1 removed; samples may keep different numbers, at least
                one.
            kept: the patches that `mask` keeps in every sample, where the caller knows it: then nothing is read back
                from a GPU, and it is not checked that the mask there keeps that many.
            full_pred: predict every patch, as upstream. False: those alone that count in the loss, which is the same.
        Returns:
            loss (scalar), pred, mask `[N, L]`. pred is `[N, p*p*C, h, w]`; without `full_pred` `[R, p*p*C]`, the
            removed patches of all samples in order, (row, column, channel) within a patch. The loss is NaN, as
            PyTorch's mean of nothing, where no patch was removed or N is 0; gradients of no image are zero.
        Raises:
            UnsupportedInputError: images, mask or ratio do not fit, or leave a sample without a visible patch; or the
                mask has other values than 0 and 1 (with `kept` on a GPU, what is not 0 is removed instead).
        """
        refuse_traced(imgs, "FCMAE")
        h, w = self.grid(imgs)
        if mask is None:
            kept = self._keep(h * w, mask_ratio)
        x, mask = self.forward_encoder(imgs, mask_ratio, mask, kept)
        if full_pred:
            pred = self.forward_decoder(x, mask)
            return self.forward_loss(imgs, pred, mask), pred, mask
        length = mask.shape[1]
        # removed patches as the "kept" ones of the opposite mask
        removed = PatchLayout.from_mask(mask == 0, 1, (h, w), None if kept is None else length - kept).patches
        pred = self._predict(self._decode(x, mask), removed)
        target = _patches.some_patches(imgs, self.patch_size, removed)
        return patch_loss(pred, target, target.new_ones(target.shape[0]), self.norm_pix_loss), pred, mask


def _pointwise(conv: nn.Conv2d, x: Tensor, name: str) -> Tensor:
    """A 1x1 convolution of `[N, C, H, W]`, as one matrix product over the pixels: their maps are channels_last, which
    libraries of convolutions may reorder. `name` says whose it is."""
    if fusion.why_not_any() or fusion.why_not_linear(conv, (nn.Conv2d,), name):
        y: Tensor = conv(x)
        return y
    return F.linear(x.permute(0, 2, 3, 1), keep_strides(conv.weight).flatten(1), conv.bias).permute(0, 3, 1, 2)


def _build(size: str, kwargs: dict[str, Any]) -> FCMAE:
    depths, dims = SIZES[size]
    return FCMAE(depths=depths, dims=dims, **kwargs)


def convnextv2_atto(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("atto", kwargs)


def convnextv2_femto(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("femto", kwargs)


def convnextv2_pico(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("pico", kwargs)


convnext_pico = convnextv2_pico  # the dense module's spelling, for those who use one name for both


def convnextv2_nano(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("nano", kwargs)


def convnextv2_tiny(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("tiny", kwargs)


def convnextv2_base(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("base", kwargs)


def convnextv2_large(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("large", kwargs)


def convnextv2_huge(**kwargs: Any) -> FCMAE:
    """FCMAE of this size; keyword arguments of :class:`FCMAE`."""
    return _build("huge", kwargs)
