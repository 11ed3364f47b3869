"""GRN's Triton backend: schemas, shape functions and gradients. The kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from .. import _triton
from .._common import samples
from .._groups import GROUPS, Groups

_KERNELS = "convnextv2_fast.ops.grn.triton_kernels"


def _forward_fake(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, rows_per_group: int, count: int, *_: Any) -> Any:
    return x.new_empty(x.shape), x.new_empty((count, x.shape[1]), dtype=torch.float32)


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> Any:
    return x.new_empty(x.shape), *(x.new_empty((x.shape[1],), dtype=torch.float32) for _ in range(2))


library.define(
    f"triton_grn_fwd(Tensor x, Tensor gamma, Tensor beta, float eps, {GROUPS}) -> (Tensor y, Tensor norm)",
    _forward_fake,
    f"{_KERNELS}:forward",
)
library.define(
    f"triton_grn_bwd(Tensor dy, Tensor x, Tensor gamma, Tensor norm, float eps, {GROUPS}) "
    "-> (Tensor dx, Tensor dgamma, Tensor dbeta)",
    _backward_fake,
    f"{_KERNELS}:backward",
)
_forward = torch.ops.convnextv2_fast.triton_grn_fwd.default
_backward = torch.ops.convnextv2_fast.triton_grn_bwd.default


class _Grn(torch.autograd.Function):
    """Saves x and the groups' norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, of: Groups) -> Tensor:  # type: ignore[override]
        y, norm = _forward(x, gamma, beta, eps, *of)
        ctx.save_for_backward(x, gamma, norm, of.row_group, of.offsets)
        ctx.eps, ctx.sizes, ctx.beta_dtype = eps, of[:2], beta.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, gamma, norm, *maps = ctx.saved_tensors
        dx, dgamma, dbeta = _backward(dy.contiguous(), x, gamma, norm, ctx.eps, *ctx.sizes, *maps)
        return dx, dgamma.to(gamma.dtype), dbeta.to(ctx.beta_dtype), None, None


def run(
    x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-6, rows_per_group: int | Tensor | None = None
) -> Tensor:
    """:func:`convnextv2_fast.ops.grn` on Triton kernels."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    of = Groups.of(rows.shape[0], samples(x, rows_per_group, "grn"), x.device)
    gamma, beta = (p.reshape(-1).contiguous() for p in (gamma, beta))
    if torch.is_grad_enabled() and any(t.requires_grad for t in (rows, gamma, beta)):
        y = _Grn.apply(rows, gamma, beta, eps, of)
    else:
        y = _forward(rows, gamma, beta, eps, *of)[0]
    return y.view(x.shape)


TRITON = _triton.implementation(run)
