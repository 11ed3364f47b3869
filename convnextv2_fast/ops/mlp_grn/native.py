"""mlp_grn's C++ operators, and the CUDA backend: the library's matrix products, our kernels around them.

The hidden activations exist (strategy "materialize"). GRN's scale goes to the second product by one of two ways, see
:func:`folds`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ... import library
from ...dispatch import UnsupportedInputError
from .. import _cuda
from .._common import autocast_off, samples
from .._groups import GROUPS, Groups


def _activate_fake(
    h: Tensor, b1: Tensor, gamma: Tensor, eps: float, rows_per_group: int, count: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    norm, scale = (h.new_empty((count, h.shape[1]), dtype=torch.float32) for _ in range(2))
    return h.new_empty(h.shape), norm, scale


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _scale_weight_fake(w2: Tensor, scale: Tensor) -> Tensor:
    return w2.new_empty((scale.shape[0], *w2.shape))


def _finish_fake(y: Tensor, bias: Tensor, row_scale: Tensor | None, residual: Tensor | None) -> Tensor:
    return y.new_empty(y.shape, dtype=(y if residual is None else residual).dtype)


def _backward_fake(dg: Tensor, h: Tensor, *_: Any) -> tuple[Tensor, ...]:
    vectors = (h.new_empty((h.shape[1],), dtype=torch.float32) for _ in range(3))
    return h.new_empty(h.shape), h.new_empty(h.shape), *vectors


library.define(
    f"mlp_grn_activate(Tensor h, Tensor b1, Tensor gamma, float eps, {GROUPS}) "
    "-> (Tensor a, Tensor norm, Tensor scale)",
    _activate_fake,
)
library.define(f"mlp_grn_scale(Tensor a, Tensor scale, Tensor beta, {GROUPS}) -> Tensor", _like_first)
library.define("mlp_grn_scale_weight(Tensor w2, Tensor scale) -> Tensor", _scale_weight_fake)
library.define("mlp_grn_finish(Tensor y, Tensor bias, Tensor? row_scale, Tensor? residual) -> Tensor", _finish_fake)
library.define(
    "mlp_grn_bwd(Tensor dg, Tensor h, Tensor b1, Tensor gamma, Tensor beta, Tensor norm, float eps, "
    f"{GROUPS}) -> (Tensor dh, Tensor g, Tensor db1, Tensor dgamma, Tensor dbeta)",
    _backward_fake,
)
# Contiguous h, a, g, dg, dh [T, K]; b1, gamma, beta [K]; norm, scale = 1 + gamma Nx float32 [G, K]. No autograd.
_ops = torch.ops.convnextv2_fast
_activate = _ops.mlp_grn_activate.default  # a = GELU(h + b1), and from its sums of squares norm and scale
_scale = _ops.mlp_grn_scale.default  # a scale + beta
_scale_weight = _ops.mlp_grn_scale_weight.default  # [G, C', K]: w2 scale
_finish = _ops.mlp_grn_finish.default  # residual + row_scale (y + bias)
_backward = _ops.mlp_grn_bwd.default  # dh, g = a scale + beta, db1, dgamma, dbeta


def folds(rows_per_group: int, c_out: int) -> bool:
    """Whether the scale goes into a copy of w2 `[C', K]` for each group, rather than into the activations.

    Per group the activations would be read and written once more, 2 R K elements; the copies are, 2 C' K. A factor of 2
    in their favour pays for products that are smaller. Groups must be of one size (R = 0: they are not)."""
    return rows_per_group >= 2 * c_out


def _forward(
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
    of: Groups,
) -> tuple[Tensor, Tensor]:
    """The result `[T, C']` and the norms `[G, K]`; w1, w2 in u's dtype."""
    a, norm, scale = _activate(u @ w1.t(), b1, gamma, eps, *of)
    if folds(of.rows_per_group, w2.shape[0]):
        groups = a.view(of.count, of.rows_per_group, w2.shape[1])
        y = torch.bmm(groups, _scale_weight(w2, scale).transpose(1, 2)).view(-1, w2.shape[0])
        bias = torch.addmv(b2.float(), w2.float(), beta.float())
    else:
        y, bias = _scale(a, scale, beta, *of) @ w2.t(), b2
    if residual is not None:
        residual = residual.to(torch.promote_types(u.dtype, residual.dtype))
    return _finish(y, bias, None if row_scale is None else row_scale.float(), residual), norm


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
        eps: float,
        of: Groups,
    ) -> Tensor:
        out, norm = _forward(u, w1, b1, gamma, beta, w2, b2, residual, row_scale, eps, of)
        # b2 enters no gradient but row_scale's.
        ctx.save_for_backward(u, w1, b1, gamma, beta, w2, b2, row_scale, norm, of.row_group, of.offsets)
        ctx.eps, ctx.sizes = eps, of[:2]
        ctx.residual_dtype = None if residual is None else residual.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        with autocast_off(dout):  # the products run in the tensors' own types
            return _gradients(ctx, dout)


def _gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    u, w1, b1, gamma, beta, w2, b2, row_scale, norm, *maps = ctx.saved_tensors
    of = Groups(*ctx.sizes, *maps)
    dresidual = None if ctx.residual_dtype is None else dout.to(ctx.residual_dtype)
    drow_scale = torch.zeros_like(row_scale) if ctx.needs_input_grad[8] else None
    dy = dout
    if row_scale is not None and row_scale.shape[0]:
        runs = dout.contiguous().view(row_scale.shape[0], -1)
        dy = (runs * row_scale.unsqueeze(1)).view(dout.shape)
        if drow_scale is not None:
            y = _forward(u, w1, b1, gamma, beta, w2, b2, None, None, ctx.eps, of)[0]
            drow_scale = (runs.float() * y.view(runs.shape).float()).sum(1).to(row_scale.dtype)
    dy = dy.to(u.dtype).contiguous()
    dh, g, db1, dgamma, dbeta = _backward(dy @ w2, u @ w1.t(), b1, gamma, beta, norm, ctx.eps, *of)
    vectors = (db1.to(b1.dtype), dgamma.to(gamma.dtype), dbeta.to(beta.dtype))
    db2 = dy.sum(0, dtype=torch.float32).to(b2.dtype)
    return dh @ w1, dh.t() @ u, *vectors, dy.t() @ g, db2, dresidual, drow_scale, None, None


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
    """:func:`convnextv2_fast.ops.mlp_grn` on CUDA kernels and the library's matrix products."""
    if strategy not in (None, "materialize"):
        raise UnsupportedInputError(
            f"mlp_grn: backend 'cuda' has the strategy 'materialize' only, not {strategy!r}, which 'triton' has"
        )
    rows = u.reshape(-1, u.shape[-1]).contiguous()
    of = Groups.of(rows.shape[0], samples(u, rows_per_group, "mlp_grn"), u.device)
    flat = None if residual is None else residual.reshape(rows.shape[0], w2.shape[0]).contiguous()
    b1, gamma, beta, b2 = (v.reshape(-1).contiguous() for v in (b1, gamma, beta, b2))
    w1, w2 = (w.to(u.dtype).contiguous() for w in (w1, w2))
    args = (rows, w1, b1, gamma, beta, w2, b2, flat, None if row_scale is None else row_scale.contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        out = _MlpGrn.apply(*args, eps, of)
    else:
        out = _forward(*args, eps, of)[0]
    return out.view(*u.shape[:-1], w2.shape[0])


CUDA = _cuda.implementation(run)
