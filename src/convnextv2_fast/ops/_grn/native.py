"""GRN's C++ operators: schemas, shape functions, and the CPU and CUDA backends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from .._shared import cpu as _cpu
from .._shared import cuda as _cuda
from .._shared.groups import GROUPS
from . import autograd


def _forward_fake(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, rows_per_group: int, count: int, *_: Any) -> Any:
    return x.new_empty(x.shape), x.new_empty((count, x.shape[1]), dtype=torch.float32)


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> Any:
    return x.new_empty(x.shape), *(x.new_empty((x.shape[1],), dtype=torch.float32) for _ in range(2))


library.define(
    f"grn_fwd(Tensor x, Tensor gamma, Tensor beta, float eps, {GROUPS}) -> (Tensor y, Tensor norm)", _forward_fake
)
library.define(
    f"grn_bwd(Tensor dy, Tensor x, Tensor gamma, Tensor norm, float eps, {GROUPS}) "
    "-> (Tensor dx, Tensor dgamma, Tensor dbeta)",
    _backward_fake,
)
# Contiguous rows [T, C], gamma, beta [C]; norm float32 [G, C]; dgamma, dbeta float32 [C]. No autograd.
KERNELS = SimpleNamespace(
    forward=torch.ops.convnextv2_fast.grn_fwd.default, backward=torch.ops.convnextv2_fast.grn_bwd.default
)


def run(
    x: Tensor, gamma: Tensor, beta: Tensor, *, eps: float = 1e-6, rows_per_group: int | Tensor | None = None
) -> Tensor:
    """:func:`convnextv2_fast.ops.grn` on C++ kernels, CPU or CUDA."""
    return autograd.run(KERNELS, x, gamma, beta, eps, rows_per_group)


CPU = _cpu.implementation(run)
CUDA = _cuda.implementation(run)
