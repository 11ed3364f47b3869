"""Gradients around the native forward. The backward is ATen's until a backend brings its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._common import conv2d_weight, taps


class DwconvLayerNorm(torch.autograd.Function):
    """Saves x, the LayerNorm's input z and, for float32, its mean and rstd."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        run: Any,
        x: Tensor,  # [N, H, W, C]
        kernel: Tensor,  # [49, C]
        bias: Tensor | None,  # [C]
        ln_weight: Tensor,  # [C]
        ln_bias: Tensor,  # [C]
        eps: float,
    ) -> Tensor:
        y, z, mean, rstd = run.forward_train(x, kernel, bias, ln_weight, ln_bias, eps)
        # The forward normalises the unrounded z. Half-precision statistics must fit the z that backward reads: where
        # |mean| >> std its rounding is many std. They are taken again from it there.
        stats = (mean, rstd) if z.dtype == torch.float32 else (None, None)
        ctx.save_for_backward(x, kernel, ln_weight, z, *stats)
        ctx.eps = eps
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.ln_bias_dtype = ln_bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, ln_weight, z, mean, rstd = ctx.saved_tensors
        n, h, w, c = x.shape
        z = z.float()
        if mean is None:
            _, mean, rstd = torch.ops.aten.native_layer_norm(z, [c], None, None, ctx.eps)
        stats = (n, h, w, 1)
        dz, dln_weight, dln_bias = torch.ops.aten.native_layer_norm_backward(
            dy.float().contiguous(),
            z,
            [c],
            mean.view(stats),
            rstd.view(stats),
            ln_weight.float(),
            ln_weight.float(),  # the bias: only its presence counts
            [True, True, True],
        )
        # CPUs without half-precision units convolve float16 and bfloat16 far slower than float32.
        work = torch.float32 if x.device.type == "cpu" else x.dtype
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            dz.to(work).permute(0, 3, 1, 2),
            x.to(work).permute(0, 3, 1, 2),
            conv2d_weight(kernel).to(work),
            [c],
            [1, 1],
            [3, 3],
            [1, 1],
            False,
            [0, 0],
            c,
            [True, True, ctx.bias_dtype is not None],
        )
        return (
            None,
            dx.permute(0, 2, 3, 1).to(x.dtype),
            taps(dweight).to(kernel.dtype),
            None if dbias is None else dbias.to(ctx.bias_dtype),
            dln_weight.to(ln_weight.dtype),
            dln_bias.to(ctx.ln_bias_dtype),
            None,
        )
