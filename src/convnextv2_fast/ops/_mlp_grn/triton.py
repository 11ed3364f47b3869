"""mlp_grn's Triton backend: schemas and shape functions. The kernels are imported at the first call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...dispatch import Spec
from .. import _triton
from .._shared.checks import samples
from .._shared.groups import GROUPS, Groups
from .._triton import chip
from . import autograd
from . import strategy as strategies

_KERNELS = "convnextv2_fast.ops._mlp_grn.triton_launch"


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
    tf32: bool,
    strategy: str,
    *of: Any,
) -> tuple[Tensor, ...]:
    return _backward(dy, u, w1, b1, gamma, beta, w2, norm, eps, tf32, *of)


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
    """:func:`convnextv2_fast.ops.mlp_grn` on Triton kernels."""
    rows = u.numel() // u.shape[-1] if u.shape[-1] else 0
    of = Groups.of(rows, samples(u, rows_per_group, "mlp_grn"), u.device)
    if strategy is not None:
        strategies.check(strategy, u.shape[-1], w2.shape[0], of.rows_per_group)
    options = (eps, _triton.tf32(u), strategy or "auto")
    return autograd.run(KERNELS, u, w1, b1, gamma, beta, w2, b2, residual, row_scale, options, of)


def _notes(spec: Spec) -> list[str]:
    return strategies.describe(chip.of(torch.device(spec.device)), spec.channels, spec.dtype)


TRITON = _triton.implementation(run, _notes)
