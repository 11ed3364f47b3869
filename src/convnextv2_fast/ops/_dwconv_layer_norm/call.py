"""A call of convolution and LayerNorm as every implementation takes it, and the operators of the C++ kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .._dwconv.call import Kernels as Dwconv
from .._layer_norm.call import Backward as NormBackward
from .._shared.checks import in_one_dtype
from .._shared.sites import PLANE, Sites


class DwconvLayerNormCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.dwconv_layer_norm`, checked and in the kernels' form."""

    x: Tensor  # [N, H, W, C], any strides, or [T, C]
    weight: Tensor  # [49, C] or [C, 1, 7, 7]: every backend has a form of its own
    bias: Tensor | None  # [C]; it and the next two are contiguous and of one dtype
    ln_weight: Tensor  # [C]
    ln_bias: Tensor  # [C]
    eps: float
    layout: Layout | None
    sites: Sites

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ln_weight: Tensor,
        ln_bias: Tensor,
        *,
        eps: float = 1e-6,
        layout: Layout | None = None,
    ) -> DwconvLayerNormCall:
        """Makes it from the arguments of the public function."""
        vectors: Any = in_one_dtype(bias, ln_weight, ln_bias)
        bias, ln_weight, ln_bias = vectors
        return cls(x, weight, bias, ln_weight, ln_bias, eps, layout, Sites.of(x, layout))


class Forward(Protocol):
    def __call__(
        self,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        ln_weight: Tensor,
        ln_bias: Tensor,
        eps: float,
        /,
        *sites: Any,
    ) -> Any:
        """Returns y `[T, C]` of contiguous rows x and taps `[49, C]`, tap = kx*7 + ky; with it, if it is the training
        form, LayerNorm's input z `[T, C]`."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward  # returns y
    forward_train: Forward  # returns (y, z)
    norm_backward: NormBackward
    dwconv: Dwconv


def _check(x: Tensor, kernel: Tensor) -> None:
    torch._check(x.dim() == 2, lambda: f"dwconv_layer_norm: x must be rows [T, C]; got {tuple(x.shape)}")
    torch._check(
        kernel.dim() == 2 and kernel.shape[0] == 49 and kernel.shape[1] == x.shape[1],
        lambda: f"dwconv_layer_norm: kernel must be [49, C]; got {tuple(kernel.shape)} for x {tuple(x.shape)}",
    )


def forward_fake(x: Tensor, kernel: Tensor, *_: Any) -> Tensor:
    _check(x, kernel)
    return x.new_empty(x.shape)


def forward_train_fake(x: Tensor, kernel: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    _check(x, kernel)
    return x.new_empty(x.shape), x.new_empty(x.shape)


ARGUMENTS = "Tensor x, Tensor kernel, Tensor? bias, Tensor ln_weight, Tensor ln_bias, float eps"
# csrc/torch/dwconv_cpu.cpp and dwconv_cuda.cpp; the kernel is float32. They take no `index`.
_forward = library.define(f"dwconv_layer_norm_fwd({ARGUMENTS}, {PLANE}) -> Tensor", forward_fake)
_forward_train = library.define(
    f"dwconv_layer_norm_fwd_train({ARGUMENTS}, {PLANE}) -> (Tensor y, Tensor z)", forward_train_fake
)


def forward(*args: Any) -> Tensor:
    *rest, _, site_map = args
    return _forward(*rest, site_map)


def forward_train(*args: Any) -> tuple[Tensor, Tensor]:
    *rest, _, site_map = args
    return _forward_train(*rest, site_map)
