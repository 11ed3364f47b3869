"""Gradients around any backend's kernels of LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared import differentiable
from .._shared.checks import any_needs_grad, rows_of
from . import reference
from .call import Kernels, LayerNormCall


class LayerNorm(torch.autograd.Function):
    """Saves x, and the statistics of its rows where the kernels return them."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, *statistics = kernels.forward(x, weight, bias, eps)
        differentiable.save(ctx, x, weight, *statistics)
        ctx.kernels, ctx.eps, ctx.bias_dtype = kernels, eps, bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, weight, *statistics = differentiable.saved(ctx)
        if differentiable.again():
            bias = weight.new_zeros(weight.shape, dtype=ctx.bias_dtype)  # its value enters no gradient

            def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return reference.layer_norm(x, weight, bias, eps=ctx.eps)

            return None, *differentiable.gradients(ctx, plain, (x, weight, bias), dy), None
        dx, dweight, dbias = ctx.kernels.backward(dy.contiguous(), x, weight, ctx.eps, *statistics)
        return None, dx, dweight.to(weight.dtype), dbias.to(ctx.bias_dtype), None


def run(kernels: Kernels, call: LayerNormCall) -> Tensor:
    """Runs the call on these kernels, with autograd only if a gradient is needed."""
    x, weight, bias, eps = call
    rows = rows_of(x)
    if any_needs_grad(rows, weight, bias):
        y: Tensor = LayerNorm.apply(kernels, rows, weight, bias, eps)
    else:
        y = kernels.forward(rows, weight, bias, eps)[0]
    return y.view(x.shape)
