"""Convolution and LayerNorm on Triton kernels, which are imported at the first call."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import library
from .. import _triton
from .._dwconv.triton import KERNELS as DWCONV
from .._shared.checks import rows_of, taps
from .._shared.sites import SITES
from . import autograd
from .call import ARGUMENTS, DwconvLayerNormCall, Kernels, forward_fake, forward_train_fake


def _kernels():
    from . import triton_kernels

    return triton_kernels


def _norm_backward_fake(dy: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), z.new_empty((2, z.shape[1]), dtype=torch.float32)


_norm_backward_operator = library.define(
    "triton_dwconv_layer_norm_bwd(Tensor dy, Tensor z, Tensor ln_weight, float eps) -> (Tensor dz, Tensor dparams)",
    _norm_backward_fake,
    lambda *args: _kernels().norm_backward(*args),
)


def norm_backward(dy: Tensor, z: Tensor, ln_weight: Tensor, eps: float, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dz, dparams = _norm_backward_operator(dy, z, ln_weight, eps)
    return dz, dparams[0], dparams[1]


KERNELS = Kernels(
    library.define(
        f"triton_dwconv_layer_norm_fwd({ARGUMENTS}, {SITES}) -> Tensor",
        forward_fake,
        lambda *args: _kernels().forward(*args),
    ),
    library.define(
        f"triton_dwconv_layer_norm_fwd_train({ARGUMENTS}, {SITES}) -> (Tensor y, Tensor z)",
        forward_train_fake,
        lambda *args: _kernels().forward_train(*args),
    ),
    norm_backward,
    DWCONV,
)


def run(call: DwconvLayerNormCall) -> Tensor:
    return autograd.run(KERNELS, call, rows_of(call.x), taps(call.weight).contiguous())


TRITON = _triton.implementation(run)
