"""The depthwise convolution's C++ operators: schemas, shape functions, and the CPU and CUDA backends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .._shared import cpu as _cpu
from .._shared import cuda as _cuda
from .._shared.checks import float_taps
from .._shared.sites import Sites
from .autograd import SparseDwconv


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, *_: Any
) -> tuple[Tensor, Tensor]:
    rows, c = x.shape
    dparams = x.new_empty((50 if wants_dparams else 0, c), dtype=torch.float32)
    return x.new_empty((rows if wants_dx else 0, c)), dparams


_PLANE = "SymInt h, SymInt w, Tensor? site_map"
library.define(f"dwconv_fwd(Tensor x, Tensor kernel, Tensor? bias, {_PLANE}) -> Tensor", _forward_fake)
library.define(
    f"dwconv_bwd(Tensor dy, Tensor x, Tensor kernel, bool wants_dx, bool wants_dparams, {_PLANE}) "
    "-> (Tensor dx, Tensor dparams)",
    _backward_fake,
)
# Contiguous rows [T, C], kernel float32 [49, C] with tap = kx*7 + ky, bias [C]; no autograd. Both gradients are
# taken in one call; dparams is float32 [50, C], the taps', then the bias's; what is not wanted comes back empty.


def _forward(x: Tensor, kernel: Tensor, bias: Tensor | None, h: int, w: int, _: Any, site_map: Tensor | None) -> Tensor:
    return torch.ops.convnextv2_fast.dwconv_fwd.default(x, kernel, bias, h, w, site_map)


def _backward(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, h: int, w: int, _: Any, site_map: Any
) -> tuple[Tensor, Tensor]:
    return torch.ops.convnextv2_fast.dwconv_bwd.default(dy, x, kernel, wants_dx, wants_dparams, h, w, site_map)


KERNELS = SimpleNamespace(forward=_forward, backward=_backward)


def run(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """:func:`convnextv2_fast.ops.sparse_dwconv` on the CPU or CUDA kernels."""
    args = (x.contiguous(), float_taps(kernel), None if bias is None else bias.reshape(-1).contiguous())
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return SparseDwconv.apply(KERNELS, *args, Sites.of(layout))
    return KERNELS.forward(*args, *Sites.of(layout))


CPU = _cpu.implementation(run)
CUDA = _cuda.implementation(run)
