"""mlp_grn's C++ operators, and the CUDA backend: torch's matrix products with this library's kernels around them.

The hidden activations exist (strategy "materialize"). GRN's scale goes to the second product by one of two ways, see
:func:`folds`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...dispatch import UnsupportedInputError
from .._shared import cuda as _cuda
from .._shared.checks import samples
from .._shared.groups import GROUPS, Groups
from . import autograd


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
    """Whether GRN's scale is applied to a copy of w2 `[C', K]` for each group, rather than to the activations.

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
    *groups: Any,
) -> tuple[Tensor, Tensor]:
    """The result `[T, C']` and the norms `[G, K]`; w1, w2 in u's dtype."""
    of = Groups(*groups)
    a, norm, scale = _activate(u @ w1.t(), b1, gamma, eps, *of)
    if folds(of.rows_per_group, w2.shape[0]):
        batches = a.view(of.count, of.rows_per_group, w2.shape[1])
        y = torch.bmm(batches, _scale_weight(w2, scale).transpose(1, 2)).view(-1, w2.shape[0])
        bias = torch.addmv(b2.float(), w2.float(), beta.float())
    else:
        y, bias = _scale(a, scale, beta, *of) @ w2.t(), b2
    if residual is not None:
        residual = residual.to(torch.promote_types(u.dtype, residual.dtype))
    return _finish(y, bias, None if row_scale is None else row_scale.float(), residual), norm


def _gradients(
    dy: Tensor,
    u: Tensor,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    norm: Tensor,
    eps: float,
    *of: Any,
) -> tuple[Tensor, ...]:
    dh, g, db1, dgamma, dbeta = _backward(dy @ w2, u @ w1.t(), b1, gamma, beta, norm, eps, *of)
    return dh @ w1, dh.t() @ u, db1, dgamma, dbeta, dy.t() @ g, dy.sum(0, dtype=torch.float32)


KERNELS = SimpleNamespace(forward=_forward, backward=_gradients)


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
    """:func:`convnextv2_fast.ops.mlp_grn` on CUDA kernels and torch's matrix products."""
    if strategy not in (None, "materialize"):
        raise UnsupportedInputError(
            f"mlp_grn: backend 'cuda' has the strategy 'materialize' only, not {strategy!r}, which 'triton' has"
        )
    rows = u.numel() // u.shape[-1] if u.shape[-1] else 0
    of = Groups.of(rows, samples(u, rows_per_group, "mlp_grn"), u.device)
    w1, w2 = (w.to(u.dtype).contiguous() for w in (w1, w2))
    return autograd.run(KERNELS, u, w1, b1, gamma, beta, w2, b2, residual, row_scale, (eps,), of)


CUDA = _cuda.implementation(run)
