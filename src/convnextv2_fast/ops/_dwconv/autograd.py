"""Gradients around any backend's kernels of the depthwise convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._shared.sites import Sites


class SparseDwconv(torch.autograd.Function):
    """Saves x.

    `kernels.forward(x, kernel, bias, *sites)` returns y; `kernels.backward(dy, x, kernel, of_input, of_params, *sites)`
    returns dx and float32 `[50, C]`, the taps' gradients, then the bias's. Gradients nobody needs are ignored."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        kernels: Any,
        x: Tensor,  # [T, C]
        kernel: Tensor,  # [49, C]
        bias: Tensor | None,  # [C]
        sites: Sites,
    ) -> Tensor:
        ctx.save_for_backward(x, kernel, sites.index, sites.site_map)
        ctx.kernels, ctx.plane, ctx.bias_dtype = kernels, sites[:2], None if bias is None else bias.dtype
        return kernels.forward(x, kernel, bias, *sites)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, *maps = ctx.saved_tensors
        _, of_x, of_kernel, of_bias, _ = ctx.needs_input_grad
        dx, dparams = ctx.kernels.backward(dy.contiguous(), x, kernel, of_x, of_kernel or of_bias, *ctx.plane, *maps)
        return None, *split(ctx, dx, dparams, of_x, of_kernel, of_bias, kernel), None


def split(
    ctx: Any, dx: Tensor, dparams: Tensor, of_x: bool, of_kernel: bool, of_bias: bool, kernel: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns the gradients of x, kernel and bias that are needed, in the dtypes of their tensors."""
    return (
        dx if of_x else None,
        dparams[:49].to(kernel.dtype) if of_kernel else None,
        dparams[49].to(ctx.bias_dtype) if of_bias else None,
    )
