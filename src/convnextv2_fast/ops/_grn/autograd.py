"""Gradients around any backend's kernels of global response normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._shared.checks import samples
from .._shared.groups import Groups


class Grn(torch.autograd.Function):
    """Saves x and the groups' norms.

    `kernels.forward(x, gamma, beta, eps, *groups)` returns y and norm, `kernels.backward(dy, x, gamma, norm, eps,
    *groups)` dx and, in float32, dgamma and dbeta."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, of: Groups) -> Tensor:  # type: ignore[override]
        y, norm = kernels.forward(x, gamma, beta, eps, *of)
        ctx.save_for_backward(x, gamma, norm, of.row_group, of.offsets)
        ctx.kernels, ctx.eps, ctx.sizes, ctx.beta_dtype = kernels, eps, of[:2], beta.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, gamma, norm, *maps = ctx.saved_tensors
        dx, dgamma, dbeta = ctx.kernels.backward(dy.contiguous(), x, gamma, norm, ctx.eps, *ctx.sizes, *maps)
        return None, dx, dgamma.to(gamma.dtype), dbeta.to(ctx.beta_dtype), None, None


def run(
    kernels: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, rows_per_group: int | Tensor | None
) -> Tensor:
    """Runs the op on these kernels, with autograd only if a gradient is needed."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    of = Groups.of(rows.shape[0], samples(x, rows_per_group, "grn"), x.device)
    gamma, beta = (p.reshape(-1).contiguous() for p in (gamma, beta))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (rows, gamma, beta)):
        return Grn.apply(kernels, rows, gamma, beta, eps, of).view(x.shape)
    return kernels.forward(rows, gamma, beta, eps, *of)[0].view(x.shape)
