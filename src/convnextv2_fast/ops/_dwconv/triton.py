"""Depthwise convolution on Triton kernels, which are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .. import _triton
from .._shared.checks import taps
from .._shared.sites import SITES
from . import autograd
from .call import DwconvCall, Kernels


def _kernels():
    from . import triton_kernels

    return triton_kernels


def _like_first(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _parameters_fake(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((50, x.shape[1]), dtype=torch.float32)


forward = library.define(
    f"triton_dwconv_fwd(Tensor x, Tensor kernel, Tensor? bias, {SITES}) -> Tensor",
    _like_first,
    lambda *args: _kernels().forward(*args),
)
# Contiguous dy [T, C], kernel [49, C] -> dx [T, C]; dy, x -> float32 [50, C], the taps' gradients, then the bias's.
input_gradient = library.define(
    f"triton_dwconv_bwd_input(Tensor dy, Tensor kernel, {SITES}) -> Tensor",
    _like_first,
    lambda *args: _kernels().input_gradient(*args),
)
parameter_gradients = library.define(
    f"triton_dwconv_bwd_params(Tensor dy, Tensor x, {SITES}) -> Tensor",
    _parameters_fake,
    lambda *args: _kernels().parameter_gradients(*args),
)


def backward(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, *sites: Any
) -> tuple[Tensor | None, Tensor | None]:
    dx = input_gradient(dy, kernel, *sites) if wants_dx else None
    return dx, parameter_gradients(dy, x, *sites) if wants_dparams else None


KERNELS = Kernels(forward, backward)


def run(call: DwconvCall) -> Tensor:
    return autograd.run(KERNELS, call, taps(call.kernel).contiguous())


TRITON = _triton.implementation(run)
