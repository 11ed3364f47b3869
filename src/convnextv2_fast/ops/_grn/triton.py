"""GRN's Triton backend: schemas and shape functions. The kernels are imported at the first call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from .. import _triton
from .._shared.groups import GROUPS
from . import autograd

_KERNELS = "convnextv2_fast.ops._grn.triton_kernels"


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
KERNELS = SimpleNamespace(
    forward=torch.ops.convnextv2_fast.triton_grn_fwd.default, backward=torch.ops.convnextv2_fast.triton_grn_bwd.default
)


def run(
    x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-6, rows_per_group: int | Tensor | None = None
) -> Tensor:
    """:func:`convnextv2_fast.ops.grn` on Triton kernels."""
    return autograd.run(KERNELS, x, gamma, beta, eps, rows_per_group)


TRITON = _triton.implementation(run)
