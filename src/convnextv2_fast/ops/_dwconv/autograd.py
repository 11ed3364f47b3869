"""Gradients around any backend's kernels of the depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared import differentiable
from .._shared.checks import any_needs_grad
from .._shared.sites import Sites
from . import reference
from .call import DwconvCall, Kernels


class Dwconv(torch.autograd.Function):
    """Saves x."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        x: Tensor,  # [T, C]
        kernel: Tensor,  # [49, C]
        bias: Tensor | None,  # [C]
        sites: Sites,
    ) -> Tensor:
        differentiable.save(ctx, x, kernel, sites.index, sites.site_map)
        ctx.kernels, ctx.plane, ctx.bias_dtype = kernels, sites[:2], None if bias is None else bias.dtype
        return kernels.forward(x, kernel, bias, *sites)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, kernel, *maps = differentiable.saved(ctx)
        if differentiable.again():
            bias = None if ctx.bias_dtype is None else kernel.new_zeros(kernel.shape[1], dtype=ctx.bias_dtype)

            def plain(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
                return reference.of_rows(x, kernel, bias, Sites(*ctx.plane, *maps))

            return None, *differentiable.gradients(ctx, plain, (x, kernel, bias), dy), None
        return None, *gradients(ctx, ctx.kernels, dy.contiguous(), x, kernel, *maps), None


def gradients(
    ctx: Any, kernels: Kernels, dy: Tensor, x: Tensor, kernel: Tensor, *maps: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns the gradients of x, kernel and bias (inputs 1 to 3 of the autograd function) that are needed, in the
    dtypes of their tensors."""
    _, wants_dx, wants_dkernel, wants_dbias, *_ = ctx.needs_input_grad
    dx, dparams = kernels.backward(dy, x, kernel, wants_dx, wants_dkernel or wants_dbias, *ctx.plane, *maps)
    return (
        dx if wants_dx else None,
        dparams[:49].to(kernel.dtype) if wants_dkernel and dparams is not None else None,
        dparams[49].to(ctx.bias_dtype) if wants_dbias and dparams is not None else None,
    )


def run(kernels: Kernels, call: DwconvCall, kernel: Tensor) -> Tensor:
    """Runs the call on these kernels, on taps `[49, C]` in their form, with autograd only if a gradient is needed."""
    x = call.x.contiguous()
    if any_needs_grad(x, kernel, call.bias):
        y: Tensor = Dwconv.apply(kernels, x, kernel, call.bias, call.sites)
        return y
    return kernels.forward(x, kernel, call.bias, *call.sites)
