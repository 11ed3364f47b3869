"""Gradients around the kernels of any backend, with its own backward or with ATen's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._common import conv2d_weight, taps
from .._sites import Sites
from ..sparse_dwconv.autograd import split


class DwconvLayerNorm(torch.autograd.Function):
    """Saves x and the LayerNorm's input z, from whose rounded values backward takes the statistics.

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
        grads = ctx.kernels.backward(dz, x, kernel, of_x, of_kernel or of_bias, *ctx.plane, *maps)
        conv = split(ctx, *grads, of_x, of_kernel, of_bias, kernel)
        return None, *conv, norm[0].to(ln_weight.dtype), norm[1].to(ctx.ln_bias_dtype), None, None


class AtenBackward(torch.autograd.Function):
    """The same around a forward that has no backward of its own yet: LayerNorm's and the convolution's are ATen's."""

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
        ctx.save_for_backward(x, kernel, ln_weight, z)
        ctx.eps, ctx.plane = eps, sites[:2]
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.ln_bias_dtype = ln_bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, kernel, ln_weight, z = ctx.saved_tensors
        shape, c = (-1, *ctx.plane, x.shape[1]), x.shape[1]
        z = z.float()
        _, mean, rstd = torch.ops.aten.native_layer_norm(z, [c], None, None, ctx.eps)
        dz, dln_weight, dln_bias = torch.ops.aten.native_layer_norm_backward(
            dy.float().contiguous(),
            z,
            [c],
            mean,
            rstd,
            ln_weight.float(),
            ln_weight.float(),  # the bias: only its presence counts
            [True, True, True],
        )
        # CPUs without half-precision units convolve float16 and bfloat16 far slower than float32.
        work = torch.float32 if x.device.type == "cpu" else x.dtype
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            dz.to(work).view(shape).permute(0, 3, 1, 2),
            x.to(work).view(shape).permute(0, 3, 1, 2),
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
            dx.permute(0, 2, 3, 1).reshape(x.shape).to(x.dtype),
            taps(dweight).to(kernel.dtype),
            None if dbias is None else dbias.to(ctx.bias_dtype),
            dln_weight.to(ln_weight.dtype),
            dln_bias.to(ctx.ln_bias_dtype),
            None,
            None,
        )
