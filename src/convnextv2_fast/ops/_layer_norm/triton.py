"""LayerNorm on Triton kernels, which are imported at the first call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from .. import _triton
from . import autograd
from .call import Kernels, LayerNormCall


def _kernels():
    from . import triton_kernels

    return triton_kernels


def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty((x.shape[0],), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


def _backward_fake(dy: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dweight, dbias = (x.new_empty((x.shape[1],), dtype=torch.float32) for _ in range(2))
    return x.new_empty(x.shape), dweight, dbias


# Unlike the C++ kernels, these return the rows' mean and rstd, float32 [T], for their backward.
KERNELS = Kernels(
    library.define(
        "triton_layer_norm_fwd(Tensor x, Tensor weight, Tensor bias, float eps) "
        "-> (Tensor y, Tensor mean, Tensor rstd)",
        _forward_fake,
        lambda *args: _kernels().forward(*args),
    ),
    library.define(
        "triton_layer_norm_bwd(Tensor dy, Tensor x, Tensor weight, float eps, Tensor mean, Tensor rstd) "
        "-> (Tensor dx, Tensor dweight, Tensor dbias)",
        _backward_fake,
        lambda *args: _kernels().backward(*args),
    ),
)


def run(call: LayerNormCall) -> Tensor:
    return autograd.run(KERNELS, call)


TRITON = _triton.implementation(run)
