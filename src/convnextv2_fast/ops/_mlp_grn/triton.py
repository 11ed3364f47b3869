"""The MLP on Triton kernels, which are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from ...spec import Spec
from .. import _triton
from .._shared.groups import GROUPS
from .._triton import chip
from . import autograd
from . import strategy as strategies
from .call import WEIGHTS, Kernels, MlpGrnCall, MlpWeights, out_fake


def _kernels():
    from . import triton_launch

    return triton_launch


def _forward_fake(u: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    weights, (residual, _, _, _, _, _, count, *_) = MlpWeights(*args[:6]), args[6:]
    norm = u.new_empty((count, weights.w1.shape[0]), dtype=torch.float32)
    return out_fake(u, weights.w2, residual), norm


def _backward_fake(dy: Tensor, u: Tensor, *args: Any) -> tuple[Tensor, ...]:
    w1, *_, w2 = args[:5]
    du, dw1, dw2 = (u.new_empty(t.shape) for t in (u, w1, w2))
    k, c_out = w1.shape[0], w2.shape[0]
    db1, dgamma, dbeta, db2 = (u.new_empty((n,), dtype=torch.float32) for n in (k, k, k, c_out))
    return du, dw1, db1, dgamma, dbeta, dw2, db2


_forward_operator = library.define(
    f"triton_mlp_grn_fwd(Tensor u, {WEIGHTS}, Tensor? residual, Tensor? row_scale, float eps, bool tf32, str strategy, "
    f"{GROUPS}) -> (Tensor out, Tensor norm)",
    _forward_fake,
    lambda *args: _kernels().forward(*args),
)
_backward_operator = library.define(
    "triton_mlp_grn_bwd(Tensor dy, Tensor u, Tensor w1, Tensor b1, Tensor gamma, Tensor beta, Tensor w2, Tensor norm, "
    f"float eps, bool tf32, str strategy, {GROUPS}) "
    "-> (Tensor du, Tensor dw1, Tensor db1, Tensor dgamma, Tensor dbeta, Tensor dw2, Tensor db2)",
    _backward_fake,
    lambda *args: _kernels().backward(*args),
)
KERNELS = Kernels(_forward_operator, _backward_operator)


def run(call: MlpGrnCall) -> Tensor:
    if call.strategy is not None:
        strategies.check(call.strategy, call.u.shape[-1], call.weights.w2.shape[0], call.groups.rows_per_group)
    return autograd.run(KERNELS, call, call.eps, _triton.tf32(call.u), call.strategy or "auto")


def _notes(spec: Spec) -> list[str]:
    return strategies.describe(chip.of(torch.device(spec.device)), spec.channels, spec.dtype)


TRITON = _triton.implementation(run, _notes)
