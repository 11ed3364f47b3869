"""The depthwise convolution's Triton backend: schemas and shape functions.

The kernels are imported at the first call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .. import _triton
from .._shared.checks import taps
from .._shared.sites import SITES, Sites
from .autograd import SparseDwconv

_KERNELS = "convnextv2_fast.ops._dwconv.triton_kernels"


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _parameters_fake(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((50, x.shape[1]), dtype=torch.float32)


library.define(
    f"triton_sparse_dwconv_fwd(Tensor x, Tensor kernel, Tensor? bias, {SITES}) -> Tensor",
    _like_first,
    f"{_KERNELS}:forward",
)
library.define(
    f"triton_sparse_dwconv_bwd_input(Tensor dy, Tensor kernel, {SITES}) -> Tensor",
    _like_first,
    f"{_KERNELS}:input_gradient",
)
library.define(
    f"triton_sparse_dwconv_bwd_params(Tensor dy, Tensor x, {SITES}) -> Tensor",
    _parameters_fake,
    f"{_KERNELS}:parameter_gradients",
)
_forward = torch.ops.convnextv2_fast.triton_sparse_dwconv_fwd.default
# Contiguous dy [T, C], kernel [49, C] -> dx [T, C]; dy, x -> float32 [50, C], the taps' gradients, then the bias's.
input_gradient = torch.ops.convnextv2_fast.triton_sparse_dwconv_bwd_input.default
parameter_gradients = torch.ops.convnextv2_fast.triton_sparse_dwconv_bwd_params.default


def _backward(
    dy: Tensor, x: Tensor, kernel: Tensor, of_input: bool, of_params: bool, *sites: Any
) -> tuple[Tensor | None, Tensor | None]:
    dx = input_gradient(dy, kernel, *sites) if of_input else None
    return dx, parameter_gradients(dy, x, *sites) if of_params else None


KERNELS = SimpleNamespace(forward=_forward, backward=_backward)


def run(x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> Tensor:
    """:func:`convnextv2_fast.ops.sparse_dwconv` on Triton kernels."""
    sites = Sites.of(layout)
    x, kernel = x.contiguous(), taps(kernel).contiguous()
    bias = None if bias is None else bias.reshape(-1).contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, kernel, bias)):
        return SparseDwconv.apply(KERNELS, x, kernel, bias, sites)
    return _forward(x, kernel, bias, *sites)


TRITON = _triton.implementation(run)
