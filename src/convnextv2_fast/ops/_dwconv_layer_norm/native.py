"""The C++ backends, CPU and CUDA: schemas and shape functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .._dwconv import native as sparse_dwconv
from .._layer_norm import native as layer_norm
from .._shared import cpu as _cpu
from .._shared import cuda as _cuda
from .._shared.checks import float_taps, in_one_dtype
from .._shared.sites import PLANE, Sites
from .autograd import DwconvLayerNorm

_ARGUMENTS = f"Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps, {PLANE}"


def _check(x: Tensor, kernel: Tensor) -> None:
    torch._check(x.dim() == 2, lambda: f"dwconv_layer_norm: x must be rows [T, C]; got {tuple(x.shape)}")
    torch._check(
        kernel.dim() == 2 and kernel.shape[0] == 49 and kernel.shape[1] == x.shape[1],
        lambda: f"dwconv_layer_norm: kernel must be [49, C]; got {tuple(kernel.shape)} for x {tuple(x.shape)}",
    )


def _forward_fake(x: Tensor, kernel: Tensor, *_: Any) -> Tensor:
    _check(x, kernel)
    return x.new_empty(x.shape)


def _forward_train_fake(x: Tensor, kernel: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    _check(x, kernel)
    return x.new_empty(x.shape), x.new_empty(x.shape)


library.define(f"dwconv_layer_norm_fwd({_ARGUMENTS}) -> Tensor", _forward_fake)
library.define(f"dwconv_layer_norm_fwd_train({_ARGUMENTS}) -> (Tensor y, Tensor z)", _forward_train_fake)
# Contiguous rows x [T, C]; kernel float32 [49, C], tap = kx*7 + ky; bias, ln_weight, ln_bias [C].
# forward returns y; forward_train returns (y, z): z is LayerNorm's input.
KERNELS = SimpleNamespace(
    forward=lambda *a: torch.ops.convnextv2_fast.dwconv_layer_norm_fwd.default(*a[:-2], a[-1]),
    forward_train=lambda *a: torch.ops.convnextv2_fast.dwconv_layer_norm_fwd_train.default(*a[:-2], a[-1]),
    norm_backward=layer_norm.backward,
    backward=sparse_dwconv.KERNELS.backward,
)


def _apart(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    ln_weight: Tensor,
    ln_bias: Tensor,
    eps: float,
    *sites: Any,
) -> tuple[Tensor, Tensor]:
    """Runs convolution and LayerNorm as two kernels, so that the convolution can use the tensor cores."""
    z = sparse_dwconv.KERNELS.forward(x, kernel, bias, *sites)
    return layer_norm.forward(z, ln_weight, ln_bias, eps), z


APART = SimpleNamespace(
    forward=lambda *args: _apart(*args)[0],
    forward_train=_apart,
    norm_backward=layer_norm.backward,
    backward=sparse_dwconv.KERNELS.backward,
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
    """:func:`convnextv2_fast.ops.dwconv_layer_norm` on the CPU or CUDA kernels."""
    on_tensor_cores = (
        x.device.type == _cuda.DEVICE
        and _cuda.tensor_cores()
        and sparse_dwconv.takes_mma(x.dtype, x.shape[-1], layout)
    )
    kernels = APART if on_tensor_cores else KERNELS
    sites = Sites.around(x, layout)
    vectors = in_one_dtype(bias, ln_weight, ln_bias)
    args = (x.reshape(-1, x.shape[-1]).contiguous(), float_taps(weight), *vectors)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in args):
        return DwconvLayerNorm.apply(kernels, *args, eps, sites).view(x.shape)
    return kernels.forward(*args, eps, *sites).view(x.shape)


CPU = _cpu.implementation(run)
CUDA = _cuda.implementation(run)
