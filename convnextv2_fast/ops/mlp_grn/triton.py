"""mlp_grn's Triton backend: schemas, shape functions and gradients. The kernels are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...dispatch import Spec
from .. import _triton
from .._common import autocast_off, samples
from .._groups import GROUPS, Groups
from .._triton import chip
from . import strategy as strategies

_KERNELS = "convnextv2_fast.ops.mlp_grn.triton_launch"


def _forward_fake(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    residual: Tensor | None,
    row_scale: Tensor | None,
    eps: float,
    tf32: bool,
    strategy: str,
    rows_per_group: int,
    count: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    dtype = u.dtype if residual is None else torch.promote_types(u.dtype, residual.dtype)
    out = u.new_empty((u.shape[0], w2.shape[0]), dtype=dtype)
    return out, u.new_empty((count, w1.shape[0]), dtype=torch.float32)


def _backward_fake(
    dy: Tensor, u: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor, w2: Tensor, *_: Any
) -> tuple[Tensor, ...]:
    du, dw1, dw2 = (u.new_empty(t.shape) for t in (u, w1, w2))
    k, c_out = w1.shape[0], w2.shape[0]
    db1, dgamma, dbeta, db2 = (u.new_empty((n,), dtype=torch.float32) for n in (k, k, k, c_out))
    return du, dw1, db1, dgamma, dbeta, dw2, db2


library.define(
    "triton_mlp_grn_fwd(Tensor u, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor b2, "
    f"Tensor? residual, Tensor? row_scale, float eps, bool tf32, str strategy, {GROUPS}) "
    "-> (Tensor out, Tensor norm)",
    _forward_fake,
    f"{_KERNELS}:forward",
)
library.define(
    "triton_mlp_grn_bwd(Tensor dy, Tensor u, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor norm, "
    f"float eps, bool tf32, {GROUPS}) "
    "-> (Tensor du, Tensor dw1, Tensor db1, Tensor dgamma, Tensor dbeta, Tensor dw2, Tensor db2)",
    _backward_fake,
    f"{_KERNELS}:backward",
)
_forward = torch.ops.convnextv2_fast.triton_mlp_grn_fwd.default
_backward = torch.ops.convnextv2_fast.triton_mlp_grn_bwd.default


class _MlpGrn(torch.autograd.Function):
    """Saves u, the parameters and the groups' norms; the hidden activations are computed again."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
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
        out, norm = _forward(u, w1, b1, gamma, beta, w2, b2, residual, row_scale, *options, *of)
        # b2 and the output enter no gradient but row_scale's.
        ctx.save_for_backward(u, w1, b1, gamma, beta, w2, b2, row_scale, norm, of.row_group, of.offsets)
        ctx.options, ctx.sizes = options, of[:2]
        ctx.residual_dtype = None if residual is None else residual.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dout):  # the products run in the tensors' own types
            return _gradients(ctx, dout)


def _gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    u, w1, b1, gamma, beta, w2, b2, row_scale, norm, *maps = ctx.saved_tensors
    eps, tf32, _ = ctx.options
    dresidual = None if ctx.residual_dtype is None else dout.to(ctx.residual_dtype)
    drow_scale = torch.zeros_like(row_scale) if ctx.needs_input_grad[8] else None
    dy = dout
    if row_scale is not None and row_scale.shape[0]:
        runs = dout.contiguous().view(row_scale.shape[0], -1)
        dy = (runs * row_scale.unsqueeze(1)).view(dout.shape)
        if ctx.needs_input_grad[8]:
            y = _forward(u, w1, b1, gamma, beta, w2, b2, None, None, *ctx.options, *ctx.sizes, *maps)[0]
            drow_scale = (runs.float() * y.view(runs.shape).float()).sum(1).to(row_scale.dtype)
    grads = _backward(dy.to(u.dtype).contiguous(), u, w1, b1, gamma, beta, w2, norm, eps, tf32, *ctx.sizes, *maps)
    cast = (g.to(p.dtype) for g, p in zip(grads, (u, w1, b1, gamma, beta, w2, b2), strict=True))
    return *cast, dresidual, drow_scale, None, None


def run(
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    residual: Tensor | None = None,
    row_scale: Tensor | None = None,
    eps: float = 1e-6,
    rows_per_group: int | Tensor | None = None,
    strategy: str | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.mlp_grn` on Triton kernels."""
    rows = u.reshape(-1, u.shape[-1]).contiguous()
    of = Groups.of(rows.shape[0], samples(u, rows_per_group, "mlp_grn"), u.device)
    if strategy is not None:
        strategies.check(strategy, rows.shape[1], w2.shape[0], of.rows_per_group)
    flat = None if residual is None else residual.reshape(rows.shape[0], w2.shape[0]).contiguous()
    vectors = (v.reshape(-1).contiguous() for v in (b1, gamma, beta))
    args = (rows, w1, *vectors, w2, b2.contiguous(), flat, None if row_scale is None else row_scale.contiguous())
    options = (eps, _triton.tf32(u), strategy or "auto")
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        out = _MlpGrn.apply(*args, options, of)
    else:
        out = _forward(*args, *options, *of)[0]
    return out.view(*u.shape[:-1], w2.shape[0])


def _notes(spec: Spec) -> list[str]:
    return strategies.describe(chip.of(torch.device(spec.device)), spec.channels, spec.dtype)


TRITON = _triton.implementation(run, _notes)
