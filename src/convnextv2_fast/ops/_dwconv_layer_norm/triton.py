"""The Triton backend of depthwise convolution and LayerNorm: schemas and shape functions.

The kernels are imported at the first call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .. import _triton
from .._dwconv import triton as sparse_dwconv
from .._shared.checks import taps
from .._shared.sites import SITES, Sites
from .autograd import DwconvLayerNorm

_KERNELS = "convnextv2_fast.ops._dwconv_layer_norm.triton_kernels"
_ARGUMENTS = f"Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps, {SITES}"


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _forward_train_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _norm_backward_fake(dy: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty((2, z.shape[1]), dtype=torch.float32)


library.define(f"triton_dwconv_layer_norm_fwd({_ARGUMENTS}) -> Tensor", _forward_fake, f"{_KERNELS}:forward")
library.define(
    f"triton_dwconv_layer_norm_fwd_train({_ARGUMENTS}) -> (Tensor y, Tensor z)",
    _forward_train_fake,
    f"{_KERNELS}:forward_train",
)
library.define(
    "triton_dwconv_layer_norm_bwd(Tensor dy, Tensor z, Tensor ln_weight, float eps) -> (Tensor dz, Tensor dparams)",
    _norm_backward_fake,
    f"{_KERNELS}:norm_backward",
)
_forward = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_fwd.default
_forward_train = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_fwd_train.default
_norm_backward = torch.ops.convnextv2_fast.triton_dwconv_layer_norm_bwd.default


KERNELS = SimpleNamespace(
    forward_train=_forward_train, norm_backward=_norm_backward, backward=sparse_dwconv.KERNELS.backward
)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    *,
    eps: float = 1e-6,
    layout: Layout | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.dwconv_layer_norm` on Triton kernels."""
    sites = Sites.around(x, layout)
    vectors = (None if v is None else v.reshape(-1).contiguous() for v in (bias, ln_weight, ln_bias))
    args = (x.reshape(-1, x.shape[-1]).contiguous(), taps(weight).contiguous(), *vectors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return DwconvLayerNorm.apply(KERNELS, *args, eps, sites).view(x.shape)
    return _forward(*args, eps, *sites).view(x.shape)


TRITON = _triton.implementation(run)
