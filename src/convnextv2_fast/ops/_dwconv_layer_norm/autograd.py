"""Gradients around any backend's kernels of convolution and LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._dwconv.autograd import gradients
from .._dwconv.reference import of_rows
from .._layer_norm.reference import layer_norm
from .._shared import differentiable
from .._shared.checks import any_needs_grad
from .._shared.sites import Sites
from .call import DwconvLayerNormCall, Kernels


class DwconvLayerNorm(torch.autograd.Function):
    """Saves x, parameters and LayerNorm's input z. Backward computes the statistics from the rounded values of z."""

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
        differentiable.save(ctx, x, kernel, bias, ln_weight, z, sites.index, sites.site_map)
        ctx.kernels, ctx.eps, ctx.plane, ctx.ln_bias_dtype = kernels, eps, sites[:2], ln_bias.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, kernel, bias, ln_weight, z, *maps = differentiable.saved(ctx)
        if differentiable.again():
            ln_bias = ln_weight.new_zeros(ln_weight.shape, dtype=ctx.ln_bias_dtype)  # its value enters no gradient
            inputs = (x, kernel, bias, ln_weight, ln_bias)

            def plain(x: Tensor, kernel: Tensor, bias: Tensor | None, *norm: Tensor) -> Tensor:
                return layer_norm(of_rows(x, kernel, bias, Sites(*ctx.plane, *maps)), *norm, eps=ctx.eps)

            return None, *differentiable.gradients(ctx, plain, inputs, dy), None, None
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
