"""A call of LayerNorm as every implementation takes it, and the operators of the C++ kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ... import library
from .._shared.checks import in_one_dtype


class LayerNormCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.layer_norm`, checked and in the kernels' form."""

    x: Tensor  # [..., C]
    weight: Tensor  # [C], contiguous
    bias: Tensor  # [C], contiguous, in weight's dtype
    eps: float

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> LayerNormCall:
        """Makes it from the arguments of the public function."""
        vectors: Any = in_one_dtype(weight, bias)
        weight, bias = vectors
        return cls(x, weight, bias, eps)


class Forward(Protocol):
    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float, /) -> tuple[Tensor, ...]:
        """Returns y `[T, C]` of contiguous rows x, and the statistics that backward wants beside x, if any."""


class Backward(Protocol):
    def __call__(
        self, dy: Tensor, x: Tensor, weight: Tensor, eps: float, /, *statistics: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns dx `[T, C]` in x's dtype, dweight and dbias, float32 `[C]`."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward
    backward: Backward


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((2, x.shape[1]), dtype=torch.float32)


# csrc/torch/layer_norm_cpu.cpp and layer_norm_cuda.cpp. Backward takes the statistics from x again and returns dx and
# float32 [2, C], the gradients of weight and bias.
_forward = library.define("layer_norm_fwd(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor", _forward_fake)
_backward = library.define(
    "layer_norm_bwd(Tensor dy, Tensor x, Tensor weight, float eps) -> (Tensor dx, Tensor dparams)", _backward_fake
)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor]:
    return (_forward(x, weight, bias, eps),)


def backward(dy: Tensor, x: Tensor, weight: Tensor, eps: float, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx, dparams = _backward(dy, x, weight, eps)
    return dx, dparams[0], dparams[1]


NATIVE = Kernels(forward, backward)
