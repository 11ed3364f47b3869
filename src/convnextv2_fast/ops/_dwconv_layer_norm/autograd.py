"""Gradients around the kernels of any backend."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._dwconv.autograd import split
from .._shared.sites import Sites


class DwconvLayerNorm(torch.autograd.Function):
    """Saves x and the LayerNorm's input z. Backward computes the statistics from the rounded values of z.

    `kernels.forward_train(x, kernel, bias, ln_weight, ln_bias, eps, *sites)` returns y and z,
    `kernels.norm_backward(dy, z, ln_weight, eps)` dz and float32 `[2, C]`; `kernels.backward` is sparse_dwconv's."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        kernels: Any,
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
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, ln_weight, z, *maps = ctx.saved_tensors
        _, of_x, of_kernel, of_bias, *_ = ctx.needs_input_grad
        dz, norm = ctx.kernels.norm_backward(dy.contiguous(), z, ln_weight, ctx.eps)
        dx, dparams = ctx.kernels.backward(dz, x, kernel, of_x, of_kernel or of_bias, *ctx.plane, *maps)
        conv = split(ctx, dx, dparams, of_x, of_kernel, of_bias, kernel)
        return None, *conv, norm[0].to(ln_weight.dtype), norm[1].to(ctx.ln_bias_dtype), None, None
