"""Gradients around any backend's kernels of mlp_grn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._shared.checks import autocast_off
from .._shared.groups import Groups


class MlpGrn(torch.autograd.Function):
    """Saves u, the parameters, the groups' norms and what else the forward returns: usually nothing, since the hidden
    activations are computed again.

    `kernels.forward(u, w1, b1, gamma, beta, w2, b2, residual, row_scale, *options, *groups)` returns the result, the
    norms and tensors `*kept`; `kernels.backward(dy, u, w1, b1, gamma, beta, w2, norm, *options, *groups, *kept)` the
    gradients of u, w1, b1, gamma, beta, w2 and b2."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        kernels: Any,
        u: Tensor,
        w1: Tensor,
        b1: Tensor,
        gamma: Tensor,
        beta: Tensor,
        w2: Tensor,
        b2: Tensor,
        residual: Tensor | None,
        row_scale: Tensor | None,
        options: tuple[Any, ...],
        of: Groups,
    ) -> Tensor:
        out, norm, *kept = kernels.forward(u, w1, b1, gamma, beta, w2, b2, residual, row_scale, *options, *of)
        # b2 and the output enter no gradient but row_scale's.
        ctx.save_for_backward(u, w1, b1, gamma, beta, w2, b2, row_scale, norm, of.row_group, of.offsets, *kept)
        ctx.kernels, ctx.options, ctx.sizes = kernels, options, of[:2]
        ctx.residual_dtype = None if residual is None else residual.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dout):  # the products run in the tensors' own types
            return _gradients(ctx, dout)


def _gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    u, w1, b1, gamma, beta, w2, b2, row_scale, norm, row_group, offsets, *kept = ctx.saved_tensors
    of, params = (*ctx.sizes, row_group, offsets), (w1, b1, gamma, beta, w2)
    dresidual = None if ctx.residual_dtype is None else dout.to(ctx.residual_dtype)
    drow_scale = torch.zeros_like(row_scale) if ctx.needs_input_grad[9] else None
    dy = dout
    if row_scale is not None and row_scale.shape[0]:
        runs = dout.contiguous().view(row_scale.shape[0], -1)
        dy = (runs * row_scale.unsqueeze(1)).view(dout.shape)
        if drow_scale is not None:
            y = ctx.kernels.forward(u, *params, b2, None, None, *ctx.options, *of)[0]
            # The terms of a whole sample cancel.
            drow_scale = (runs.double() * y.view(runs.shape).double()).sum(1).to(row_scale.dtype)
    grads = ctx.kernels.backward(dy.to(u.dtype).contiguous(), u, *params, norm, *ctx.options, *of, *kept)
    cast = (g.to(p.dtype) for g, p in zip(grads, (u, *params, b2), strict=True))
    return None, *cast, dresidual, drow_scale, None, None


def run(
    kernels: Any,
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    options: tuple[Any, ...],
    of: Groups,
) -> Tensor:
    """Runs the op on these kernels, with autograd only if a gradient is needed; u has any shape `[..., C]`."""
    rows = u.reshape(-1, u.shape[-1]).contiguous()
    flat = None if residual is None else residual.reshape(rows.shape[0], w2.shape[0]).contiguous()
    vectors = (v.reshape(-1).contiguous() for v in (b1, gamma, beta))
    args = (rows, w1, *vectors, w2, b2.contiguous(), flat, None if row_scale is None else row_scale.contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        out = MlpGrn.apply(kernels, *args, options, of)
    else:
        out = kernels.forward(*args, *options, *of)[0]
    return out.view(*u.shape[:-1], w2.shape[0])
