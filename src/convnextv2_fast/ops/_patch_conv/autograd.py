"""Gradients around any backend's kernels of the patch convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared import differentiable
from .._shared.checks import any_needs_grad, autocast_off, like_parameter, rows_of
from . import reference
from .call import Kernels, PatchConvCall
from .gather import Gather


class PatchConv(torch.autograd.Function):
    """Saves x, and the statistics of its rows where the kernels return them. Backward gathers (and normalises) the
    blocks again."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        x: Tensor,  # [N, H, W, Cin] or [S, Cin]
        weight: Tensor,  # in a form of `weights`
        bias: Tensor | None,  # [Cout]
        norm_weight: Tensor | None,  # [Cin]
        norm_bias: Tensor | None,  # [Cin]
        eps: float,
        gather: Gather,
    ) -> Tensor:
        z, *statistics = kernels.forward(x, weight, bias, norm_weight, norm_bias, eps, gather)
        differentiable.save(ctx, x, weight, norm_weight, norm_bias, gather.table, *statistics)
        ctx.kernels, ctx.gather, ctx.eps = kernels, gather[1:], eps
        ctx.bias_dtype = None if bias is None else bias.dtype
        return z

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
        if differentiable.again():
            return _differentiable_gradients(ctx, dz)
        with autocast_off(dz):  # the products run in the tensors' own types
            return _gradients(ctx, dz.contiguous())


def _gradients(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    x, weight, norm_weight, norm_bias, table, *statistics = differentiable.saved(ctx)
    kernels: Kernels = ctx.kernels
    gather = Gather(table, *ctx.gather)
    _, wants_dx, wants_dweight, wants_dbias, *wants_dnorm = ctx.needs_input_grad[:6]
    rows, dz = rows_of(x), dz.to(x.dtype)
    dx = dweight = dbias = dnorm_weight = dnorm_bias = None
    if wants_dweight or wants_dbias:
        how = (norm_weight, norm_bias, ctx.eps, gather)
        wanted = (wants_dweight, wants_dbias)
        dweight, dbias = kernels.parameter_gradients(dz, rows, weight, *how, wanted, *statistics)
        dweight = like_parameter(dweight, weight) if wants_dweight and dweight is not None else None
        dbias = dbias.to(ctx.bias_dtype) if wants_dbias and dbias is not None else None
    if wants_dx or any(wants_dnorm):
        dx = kernels.input_gradient(dz, weight, rows.shape[0], gather.covers, gather)
        if norm_weight is not None:
            dx, dnorm_weight, dnorm_bias = kernels.layer_norm.backward(dx, rows, norm_weight, ctx.eps, *statistics)
            dnorm_weight, dnorm_bias = dnorm_weight.to(norm_weight.dtype), dnorm_bias.to(norm_bias.dtype)
        dx = dx.view(x.shape)
    return None, dx, dweight, dbias, dnorm_weight, dnorm_bias, None, None


def _differentiable_gradients(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    x, weight, norm_weight, norm_bias, table, *_ = differentiable.saved(ctx)
    bias = None if ctx.bias_dtype is None else dz.new_zeros(dz.shape[1], dtype=ctx.bias_dtype)  # enters no gradient

    def plain(x: Tensor, weight: Tensor, *vectors: Any) -> Tensor:
        bias, norm_weight, norm_bias = vectors
        return reference.of_rows(x, weight, bias, norm_weight, norm_bias, ctx.eps, Gather(table, *ctx.gather))

    inputs = (x, weight, bias, norm_weight, norm_bias)
    return None, *differentiable.gradients(ctx, plain, inputs, dz), None, None


def convolve(kernels: Kernels, call: PatchConvCall, x: Tensor, weight: Tensor) -> Tensor:
    """Runs the call up to `norm_after`, on x and the weight in the kernels' form, with autograd only if a gradient is
    needed. Returns rows `[T', Cout]`."""
    weight_before, bias_before = call.norm_before
    if any_needs_grad(x, weight, call.bias, weight_before, bias_before):
        z: Tensor = PatchConv.apply(kernels, x, weight, call.bias, weight_before, bias_before, call.eps, call.gather)
        return z
    return kernels.forward(x, weight, call.bias, weight_before, bias_before, call.eps, call.gather)[0]
