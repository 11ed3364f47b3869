"""The Triton backend of depthwise convolution and LayerNorm: schemas, shape functions and gradients.

The kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...layouts import Layout
from .. import _triton
from .._common import taps
from .._sites import SITES, Sites
from ..sparse_dwconv.triton import input_gradient, parameter_gradients

_KERNELS = "convnextv2_fast.ops.dwconv_layer_norm.triton_kernels"
_ARGUMENTS = f"Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps, {SITES}"


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _forward_train_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _norm_backward_fake(dy: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty((2, z.shape[1]), dtype=torch.float32)


library.define(f"triton_dwconv_layer_norm_fwd({_ARGUMENTS}) -> Tensor", _forward_fake, f"{_KERNELS}:forward")
library.define(
    f"triton_dwconv_layer_norm_fwd_train({_ARGUMENTS}) -> (Tensor y, Tensor z)",
    _forward_train_fake,
    f"{_KERNELS}:forward_train",
)
library.define(
    "triton_dwconv_layer_norm_bwd(Tensor dy, Tensor z, Tensor ln_weight, float eps) -> (Tensor dz, Tensor dparams)",
    _norm_backward_fake,
    f"{_KERNELS}:norm_backward",
)
_forward = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_fwd.default
_forward_train = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_fwd_train.default
_norm_backward = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_bwd.default


class _DwconvLayerNorm(torch.autograd.Function):
    """Saves x and the LayerNorm's input z, from whose rounded values backward takes the statistics."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,  # [T, C]
        kernel: Tensor,  # [49, C]
        bias: Tensor | None,  # [C]
        ln_weight: Tensor,  # [C]
        ln_bias: Tensor,  # [C]
        eps: float,
        sites: Sites,
    ) -> Tensor:
        y, z = _forward_train(x, kernel, bias, ln_weight, ln_bias, eps, *sites)
        ctx.save_for_backward(x, kernel, ln_weight, z, sites.index, sites.site_map)
        ctx.eps, ctx.plane, ctx.ln_bias_dtype = eps, sites[:2], ln_bias.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, ln_weight, z, *maps = ctx.saved_tensors
        of_x, of_kernel, of_bias, *_ = ctx.needs_input_grad
        dx, dkernel, dbias = None, None, None
        dz, norm = _norm_backward(dy.contiguous(), z, ln_weight, ctx.eps)
        if of_x:
            dx = input_gradient(dz, kernel, *ctx.plane, *maps)
        if of_kernel or of_bias:
            params = parameter_gradients(dz, x, *ctx.plane, *maps)
            dkernel = params[:49].to(kernel.dtype)
            dbias = params[49].to(ctx.bias_dtype) if of_bias else None
        return dx, dkernel, dbias, norm[0].to(ln_weight.dtype), norm[1].to(ctx.ln_bias_dtype), None, None


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.dwconv_layer_norm` on Triton kernels."""
    if x.ndim == 4:
        sites = Sites(x.shape[1], x.shape[2])
    else:
        assert layout is not None
        sites = Sites.of(layout)
    vectors = (None if v is None else v.reshape(-1).contiguous() for v in (bias, ln_weight, ln_bias))
    args = (x.reshape(-1, x.shape[-1]).contiguous(), taps(weight).contiguous(), *vectors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return _DwconvLayerNorm.apply(*args, eps, sites).view(x.shape)
    return _forward(*args, eps, *sites).view(x.shape)


TRITON = _triton.implementation(run)
