"""Gradients around any backend's kernels of global response normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._shared import differentiable
from .._shared.checks import any_needs_grad, rows_of
from .._shared.groups import Groups
from . import reference
from .call import GrnCall, Kernels


class Grn(torch.autograd.Function):
    """Saves x and the groups' norms."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, groups: Groups
    ) -> Tensor:
        y, norm = kernels.forward(x, gamma, beta, eps, *groups)
        differentiable.save(ctx, x, gamma, norm, groups.row_group, groups.offsets)
        ctx.kernels, ctx.eps, ctx.sizes, ctx.beta_dtype = kernels, eps, groups[:2], beta.dtype
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        x, gamma, norm, *maps = differentiable.saved(ctx)
        if differentiable.again():
            beta = gamma.new_zeros(gamma.shape, dtype=ctx.beta_dtype)  # its value enters no gradient

            def plain(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
                return reference.run(GrnCall(x, gamma, beta, ctx.eps, Groups(*ctx.sizes, *maps)))

            return None, *differentiable.gradients(ctx, plain, (x, gamma, beta), dy), None, None
        dx, dgamma, dbeta = ctx.kernels.backward(dy.contiguous(), x, gamma, norm, ctx.eps, *ctx.sizes, *maps)
        return None, dx, dgamma.to(gamma.dtype), dbeta.to(ctx.beta_dtype), None, None


def run(kernels: Kernels, call: GrnCall) -> Tensor:
    """Runs the call on these kernels, with autograd only if a gradient is needed."""
    args = (rows_of(call.x), *call[1:])
    if any_needs_grad(*args[:3]):
        y: Tensor = Grn.apply(kernels, *args)
    else:
        y = kernels.forward(*args[:4], *call.groups)[0]
    return y.view(call.x.shape)
