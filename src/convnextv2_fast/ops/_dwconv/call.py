"""A call of the depthwise convolution as every implementation takes it, and the operators of the C++ kernels."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ... import library
from ...layouts import Layout
from .._shared.checks import flat
from .._shared.sites import PLANE, Sites


class DwconvCall(NamedTuple):
    """The arguments of :func:`convnextv2_fast.ops.sparse_dwconv`, checked and in the kernels' form."""

    x: Tensor  # [T, C]
    kernel: Tensor  # [49, C] or [C, 1, 7, 7]: every backend has a form of its own
    bias: Tensor | None  # [C], contiguous
    layout: Layout
    sites: Sites

    @classmethod
    def of(cls, x: Tensor, kernel: Tensor, bias: Tensor | None, *, layout: Layout) -> DwconvCall:
        """Makes it from the arguments of the public function."""
        vector = None if bias is None else flat(bias)
        return cls(x, kernel, vector, layout, Sites.of(x, layout))


class Forward(Protocol):
    def __call__(self, x: Tensor, kernel: Tensor, bias: Tensor | None, /, *sites: Any) -> Tensor:
        """Returns `[T, C]` of contiguous rows x and taps `[49, C]`, tap = kx*7 + ky."""


class Backward(Protocol):
    def __call__(
        self, dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, /, *sites: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns dx `[T, C]` and float32 `[50, C]`, the taps' gradients, then the bias's; what is not wanted is
        empty or None."""


class Kernels(NamedTuple):
    """The operators of a backend. They know nothing of autograd."""

    forward: Forward
    backward: Backward


def _forward_fake(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _backward_fake(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, *_: Any
) -> tuple[Tensor, Tensor]:
    rows, c = x.shape
    dparams = x.new_empty((50 if wants_dparams else 0, c), dtype=torch.float32)
    return x.new_empty((rows if wants_dx else 0, c)), dparams


def operators(name: str) -> Kernels:
    """Declares the operators `<name>_fwd` and `<name>_bwd`, to which C++ attaches implementations.

    Their kernel is float32. They take no `index`, which :class:`Kernels` has for Triton's."""
    forward = library.define(f"{name}_fwd(Tensor x, Tensor kernel, Tensor? bias, {PLANE}) -> Tensor", _forward_fake)
    backward = library.define(
        f"{name}_bwd(Tensor dy, Tensor x, Tensor kernel, bool wants_dx, bool wants_dparams, {PLANE}) "
        "-> (Tensor dx, Tensor dparams)",
        _backward_fake,
    )

    def run_forward(x: Tensor, kernel: Tensor, bias: Tensor | None, h: int, w: int, *maps: Any) -> Tensor:
        return forward(x, kernel, bias, h, w, maps[1])

    def run_backward(
        dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, h: int, w: int, *maps: Any
    ) -> tuple[Tensor, Tensor]:
        return backward(dy, x, kernel, wants_dx, wants_dparams, h, w, maps[1])

    return Kernels(run_forward, run_backward)


NATIVE = operators("dwconv")  # csrc/torch/dwconv_cpu.cpp and dwconv_cuda.cpp
