"""Gradients around any backend's kernels of the MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared import differentiable
from .._shared.checks import any_needs_grad, autocast_off, rows_of
from .._shared.groups import Groups
from .._shared.sums import row_sums
from . import reference
from .call import Kernels, MlpGrnCall, MlpWeights

_ROW_SCALE = 9  # its place among the inputs of MlpGrn


class MlpGrn(torch.autograd.Function):
    """Saves u, the parameters, the groups' norms and what else the forward returns: usually nothing, since the hidden
    activations are computed again. Inputs: kernels, u, :class:`MlpWeights`, residual, row_scale, options, groups."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, u: Tensor, *args: Any) -> Tensor:
        *weights, residual, row_scale, options, groups = args
        out, norm, *saved = kernels.forward(u, *weights, residual, row_scale, *options, *groups)
        # b2 and the output enter no gradient but row_scale's.
        differentiable.save(ctx, u, *weights, row_scale, norm, groups.row_group, groups.offsets, *saved)
        ctx.kernels, ctx.options, ctx.sizes = kernels, options, groups[:2]
        ctx.residual_dtype = None if residual is None else residual.dtype
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        if differentiable.again():
            return _differentiable_gradients(ctx, dout)
        with autocast_off(dout):  # the products run in the tensors' own types
            return _gradients(ctx, dout)


def _gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    u, *rest = differentiable.saved(ctx)
    weights, (row_scale, norm, row_group, offsets, *saved) = MlpWeights(*rest[:6]), rest[6:]
    groups = (*ctx.sizes, row_group, offsets)
    dresidual = None if ctx.residual_dtype is None else dout.to(ctx.residual_dtype)
    drow_scale = torch.zeros_like(row_scale) if ctx.needs_input_grad[_ROW_SCALE] else None
    dy = dout
    if row_scale is not None and row_scale.shape[0]:
        runs = dout.contiguous().view(row_scale.shape[0], -1)
        dy = (runs * row_scale.unsqueeze(1)).view(dout.shape)
        if drow_scale is not None:
            y = ctx.kernels.forward(u, *weights, None, None, *ctx.options, *groups)[0]
            # The terms of a whole sample cancel.
            drow_scale = row_sums(runs.double() * y.view(runs.shape).double()).to(row_scale.dtype)
    dy = dy.to(u.dtype).contiguous()
    grads = ctx.kernels.backward(dy, u, *weights[:-1], norm, *ctx.options, *groups, *saved)
    cast = (g.to(p.dtype) for g, p in zip(grads, (u, *weights), strict=True))
    return None, *cast, dresidual, drow_scale, None, None


def _differentiable_gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    u, *rest = differentiable.saved(ctx)
    weights, (row_scale, _, *maps) = rest[:6], rest[6:]
    groups, eps = Groups(*ctx.sizes, *maps[:2]), ctx.options[0]
    # The residual is added last: its value enters no gradient.
    residual = None if ctx.residual_dtype is None else dout.new_zeros(dout.shape, dtype=ctx.residual_dtype)

    def plain(u: Tensor, *tensors: Any) -> Tensor:
        *weights, residual, row_scale = tensors
        return reference.run(MlpGrnCall(u, MlpWeights(*weights), residual, row_scale, eps, groups, None))

    return None, *differentiable.gradients(ctx, plain, (u, *weights, residual, row_scale), dout), None, None


def run(kernels: Kernels, call: MlpGrnCall, *options: Any) -> Tensor:
    """Runs the call on these kernels and their options, with autograd only if a gradient is needed."""
    args = (rows_of(call.u), *call.weights, call.residual, call.row_scale)
    if any_needs_grad(*args):
        out: Tensor = MlpGrn.apply(kernels, *args, options, call.groups)
    else:
        out = kernels.forward(*args, *options, *call.groups)[0]
    return out.view(*call.u.shape[:-1], out.shape[1])
