"""Whole models in plain PyTorch, as functions of a state_dict, built from the ops' references only.

No module of :mod:`convnextv2_fast.models` and no kernel takes part, so they check both. Any dtype, float64 included;
any device; differentiable with respect to the parameters and the images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from .layouts import Layout, PatchLayout
from .ops._dwconv_layer_norm.reference import dwconv_layer_norm
from .ops._layer_norm.reference import layer_norm
from .ops._mlp_grn.reference import mlp_grn
from .ops._patch_conv.reference import patch_conv

Params = Mapping[str, Tensor]


def _depths(params: Params, prefix: str = "") -> list[int]:
    """Blocks per stage, counted from the names."""
    found: list[set[str]] = [set(), set(), set(), set()]
    for name in params:
        if name.startswith(f"{prefix}stages."):
            stage, block = name.removeprefix(f"{prefix}stages.").split(".")[:2]
            found[int(stage)].add(block)
    return [len(blocks) for blocks in found]


def _pair(params: Params, name: str) -> tuple[Tensor, Tensor]:
    return params[f"{name}.weight"], params[f"{name}.bias"]


def block(params: Params, prefix: str, x: Tensor, *, eps: float = 1e-6, grn_eps: float = 1e-6) -> Tensor:
    """The dense block whose parameters begin with `prefix`; x `[N, H, W, C]`."""
    p = {k: params[f"{prefix}{k}"] for k in ("grn.gamma", "grn.beta")}
    u = dwconv_layer_norm(x, *_pair(params, f"{prefix}dwconv"), *_pair(params, f"{prefix}norm"), eps=eps)
    w1, b1 = _pair(params, f"{prefix}pwconv1")
    w2, b2 = _pair(params, f"{prefix}pwconv2")
    return mlp_grn(u, w1, b1, p["grn.gamma"], p["grn.beta"], w2, b2, residual=x, eps=grn_eps)


def sparse_block(
    params: Params, prefix: str, x: Tensor, layout: Layout, *, grn_scope: str = "batch", grn_eps: float = 1e-6
) -> Tensor:
    """The sparse block (MinkowskiEngine's names); rows x `[T, C]`."""
    kernel, bias = params[f"{prefix}dwconv.kernel"], params[f"{prefix}dwconv.bias"]
    u = dwconv_layer_norm(x, kernel, bias, *_pair(params, f"{prefix}norm.ln"), layout=layout)
    w1, b1 = _pair(params, f"{prefix}pwconv1.linear")
    w2, b2 = _pair(params, f"{prefix}pwconv2.linear")
    gamma, beta = params[f"{prefix}grn.gamma"], params[f"{prefix}grn.beta"]
    group = max(x.shape[0], 1) if grn_scope == "batch" else layout.rows_per_sample
    return mlp_grn(u, w1, b1, gamma, beta, w2, b2, residual=x, rows_per_group=group, eps=grn_eps)


def convnextv2_features(params: Params, images: Tensor, *, grn_eps: float = 1e-6) -> list[Tensor]:
    """The four stages' maps `[N, H_i, W_i, C_i]` of the dense model, upstream's names; images `[N, C, H, W]`."""
    x, maps = images.permute(0, 2, 3, 1), []
    for i, depth in enumerate(_depths(params)):
        conv, norm = (_pair(params, f"downsample_layers.{i}.{j}") for j in ((0, 1) if i == 0 else (1, 0)))
        x = patch_conv(x, *conv, norm_after=norm) if i == 0 else patch_conv(x, *conv, norm_before=norm)
        for j in range(depth):
            x = block(params, f"stages.{i}.{j}.", x, grn_eps=grn_eps)
        maps.append(x)
    return maps


def convnextv2(params: Params, images: Tensor, *, grn_eps: float = 1e-6) -> Tensor:
    """Logits `[N, num_classes]` of the dense model (the pooled, normed vector where there is no head).

    Args:
        params: state_dict in upstream's names.
        images: `[N, in_chans, H, W]`, H and W at least 32, in the parameters' dtype.
    """
    pooled = layer_norm(convnextv2_features(params, images, grn_eps=grn_eps)[-1].mean((1, 2)), *_pair(params, "norm"))
    return F.linear(pooled, *_pair(params, "head")) if "head.weight" in params else pooled


def sparse_encoder(
    params: Params,
    images: Tensor,
    mask: Tensor,
    *,
    patch_size: int = 32,
    grn_scope: str = "batch",
    grn_eps: float = 1e-6,
    prefix: str = "encoder.",
) -> Tensor:
    """FCMAE's encoder: `[N, C_3, H/32, W/32]`, zeros at inactive sites. mask `[N, L]`, 0 keep, 1 removed."""
    n, _, h, w = images.shape
    grid = (h // patch_size, w // patch_size)
    layout: Layout = PatchLayout.from_mask(mask.reshape(n, -1), patch_size // 4, grid=grid)
    x = images.permute(0, 2, 3, 1)
    for i, depth in enumerate(_depths(params, prefix)):
        down = f"{prefix}downsample_layers.{i}"
        if i == 0:
            x = patch_conv(x, *_pair(params, f"{down}.0"), norm_after=_pair(params, f"{down}.1"), layout=layout)
        else:
            kernel, bias = params[f"{down}.1.kernel"], params[f"{down}.1.bias"]
            x = patch_conv(x, kernel, bias, norm_before=_pair(params, f"{down}.0.ln"), layout=layout)
            layout = layout.coarsen(2)[0]
        for j in range(depth):
            x = sparse_block(params, f"{prefix}stages.{i}.{j}.", x, layout, grn_scope=grn_scope, grn_eps=grn_eps)
    return layout.to_dense(x).permute(0, 3, 1, 2)


def fcmae(
    params: Params,
    images: Tensor,
    mask: Tensor,
    *,
    patch_size: int = 32,
    norm_pix_loss: bool = False,
    grn_scope: str = "batch",
    grn_eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """FCMAE's `(loss, pred, mask)` for a given mask; see :class:`convnextv2_fast.models.fcmae.FCMAE`.

    Args:
        params: state_dict in upstream's (MinkowskiEngine's) names.
        images: `[N, C, H, W]`. mask: `[N, L]`, 0 keep, 1 removed.
    """
    n, c, height, width = images.shape
    p, h, w = patch_size, height // patch_size, width // patch_size
    encoded = sparse_encoder(params, images, mask, patch_size=p, grn_scope=grn_scope, grn_eps=grn_eps)
    x = F.conv2d(encoded, *_pair(params, "proj"))
    if p < 32:
        x = x.repeat_interleave(32 // p, 2).repeat_interleave(32 // p, 3)
    elif p > 32:
        x = F.avg_pool2d(x, p // 32)
    removed = mask.reshape(n, 1, h, w).to(x.dtype)
    y = (x * (1 - removed) + params["mask_token"] * removed).permute(0, 2, 3, 1)
    for j in range(len({name.split(".")[1] for name in params if name.startswith("decoder.")})):
        y = block(params, f"decoder.{j}.", y, grn_eps=grn_eps)
    pred = F.conv2d(y.permute(0, 3, 1, 2), *_pair(params, "pred"))

    target = images.reshape(n, c, h, p, w, p).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, p * p * c)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    per_patch = (pred.flatten(2).transpose(1, 2) - target).square().mean(-1)
    flat = mask.reshape(n, -1).to(per_patch.dtype)
    return (per_patch * flat).sum() / flat.sum(), pred, mask
