"""Gradients around any backend's kernels of convolution and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._dwconv.autograd import gradients
from .._shared.checks import any_needs_grad
from .._shared.sites import Sites
from .call import DwconvLayerNormCall, Kernels


class DwconvLayerNorm(torch.autograd.Function):
    """Saves x and the LayerNorm's input z. Backward computes the statistics from the rounded values of z."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        x: Tensor,  # [T, C]
        kernel: Tensor,  # [49, C]
        bias: Tensor | None,  # [C]
        ln_weight: Tensor,  # [C]
        ln_bias: Tensor,  # [C]
        eps: float,
        sites: Sites,
    ) -> Tensor:
        y, z = kernels.forward_train(x, kernel, bias, ln_weight, ln_bias, eps, *sites)
        ctx.save_for_backward(x, kernel, ln_weight, z, sites.index, sites.site_map)
        ctx.kernels, ctx.eps, ctx.plane, ctx.ln_bias_dtype = kernels, eps, sites[:2], ln_bias.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, kernel, ln_weight, z, *maps = ctx.saved_tensors
        dz, dweight, dbias = ctx.kernels.norm_backward(dy.contiguous(), z, ln_weight, ctx.eps)
        conv = gradients(ctx, ctx.kernels.dwconv, dz, x, kernel, *maps)
        return None, *conv, dweight.to(ln_weight.dtype), dbias.to(ctx.ln_bias_dtype), None, None


def run(kernels: Kernels, call: DwconvLayerNormCall, rows: Tensor, kernel: Tensor) -> Tensor:
    """Runs the call, whose rows are `[T, C]`, on these kernels and on taps `[49, C]` in their form, with autograd only
    if a gradient is needed."""
    args = (rows, kernel, call.bias, call.ln_weight, call.ln_bias)
    if any_needs_grad(*args):
        y: Tensor = DwconvLayerNorm.apply(kernels, *args, call.eps, call.sites)
    else:
        y = kernels.forward(*args, call.eps, *call.sites)
    return y.view(call.x.shape)
