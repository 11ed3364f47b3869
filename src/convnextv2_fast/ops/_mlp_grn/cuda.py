"""The MLP on NVIDIA GPUs: torch's matrix products with the kernels of csrc/cuda/mlp_grn around them.

The hidden activations exist (strategy "materialize"). GRN's scale goes to the second product by one of two ways, see
:func:`folds`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from ...errors import UnsupportedInputError
from .._shared import cuda
from .._shared.groups import GROUPS, Groups
from . import autograd
from .call import Kernels, MlpGrnCall


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


# csrc/torch/mlp_grn_cuda.cpp. Contiguous h, a, g, dg, dh [T, K]; b1, gamma, beta [K]; norm, scale = 1 + gamma Nx
# float32 [G, K]. No autograd.
_activate = library.define(  # a = GELU(h + b1), and from its sums of squares norm and scale
    f"mlp_grn_activate(Tensor h, Tensor b1, Tensor gamma, float eps, {GROUPS}) "
    "-> (Tensor a, Tensor norm, Tensor scale)",
    _activate_fake,
)
_scale = library.define(  # a scale + beta
    f"mlp_grn_scale(Tensor a, Tensor scale, Tensor beta, {GROUPS}) -> Tensor", _like_first
)
_scale_weight = library.define(  # [G, C', K]: w2 scale
    "mlp_grn_scale_weight(Tensor w2, Tensor scale) -> Tensor", _scale_weight_fake
)
_finish = library.define(  # residual + row_scale (y + bias)
    "mlp_grn_finish(Tensor y, Tensor bias, Tensor? row_scale, Tensor? residual) -> Tensor", _finish_fake
)
_backward = library.define(  # dh, g = a scale + beta, db1, dgamma, dbeta
    "mlp_grn_bwd(Tensor dg, Tensor h, Tensor b1, Tensor gamma, Tensor beta, Tensor norm, float eps, "
    f"{GROUPS}) -> (Tensor dh, Tensor g, Tensor db1, Tensor dgamma, Tensor dbeta)",
    _backward_fake,
)


def folds(rows_per_group: int, c_out: int) -> bool:
    """Whether GRN's scale is applied to a copy of w2 `[C', K]` for each group, rather than to the activations.

    Per group the activations would be read and written once more, 2 R K elements; the copies are, 2 C' K. A factor of 2
    in their favour pays for products that are smaller. Groups must be of one size (R = 0: they are not)."""
    return rows_per_group >= 2 * c_out


def _forward(u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """The result `[T, C']` and the norms `[G, K]`; w1, w2 in u's dtype."""
    w1, b1, gamma, beta, w2, b2, residual, row_scale, eps, *rest = args
    groups = Groups(*rest)
    a, norm, scale = _activate(u @ w1.t(), b1, gamma, eps, *groups)
    if folds(groups.rows_per_group, w2.shape[0]):
        batches = a.view(groups.count, groups.rows_per_group, w2.shape[1])
        y = torch.bmm(batches, _scale_weight(w2, scale).transpose(1, 2)).view(-1, w2.shape[0])
        bias = torch.addmv(b2.float(), w2.float(), beta.float())
    else:
        y, bias = _scale(a, scale, beta, *groups) @ w2.t(), b2
    return _finish(y, bias, row_scale, residual), norm


def _gradients(dy: Tensor, u: Tensor, *args: Any) -> tuple[Tensor, ...]:
    w1, b1, gamma, beta, w2, norm, eps, *groups = args
    dh, g, db1, dgamma, dbeta = _backward(dy @ w2, u @ w1.t(), b1, gamma, beta, norm, eps, *groups)
    return dh @ w1, dh.t() @ u, db1, dgamma, dbeta, dy.t() @ g, dy.sum(0, dtype=torch.float32)


KERNELS = Kernels(_forward, _gradients)


def run(call: MlpGrnCall) -> Tensor:
    if call.strategy not in (None, "materialize"):
        raise UnsupportedInputError(
            f"mlp_grn: backend 'cuda' has the strategy 'materialize' only, not {call.strategy!r}, which 'triton' has"
        )
    w = call.weights
    weights = w._replace(w1=w.w1.to(call.u.dtype), w2=w.w2.to(call.u.dtype))
    return autograd.run(KERNELS, call._replace(weights=weights), call.eps)


CUDA = cuda.implementation(run)
