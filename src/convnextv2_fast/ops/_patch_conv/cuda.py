"""Patch convolution on NVIDIA GPUs: blocks gathered by the kernels of csrc/cuda/patch_conv, torch's matrix product,
LayerNorm."""

from __future__ import annotations

import torch
from torch import Tensor

from .._layer_norm import cuda as layer_norm
from .._layer_norm import reference as layer_norm_reference
from .._layer_norm.call import NATIVE as LAYER_NORM
from .._layer_norm.call import LayerNormCall
from .._shared import cuda
from .._shared.checks import rows_of
from . import autograd
from .call import Kernels, PatchConvCall, blocks, scatter
from .gather import Gather
from .products import by_torch
from .weights import matrix


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    gather: Gather,
) -> tuple[Tensor]:
    operand = blocks(x, norm_weight, norm_bias, eps, gather)
    return (operand @ weight if bias is None else torch.addmm(bias.to(x.dtype), operand, weight),)


KERNELS = Kernels(forward, *by_torch(blocks, scatter), LAYER_NORM)


def run(call: PatchConvCall) -> Tensor:
    z = autograd.convolve(KERNELS, call, rows_of(call.x), matrix(call.weight).to(call.x.dtype))
    weight, bias = call.norm_after
    if weight is not None and bias is not None:
        norm = layer_norm_reference if z.shape[1] > cuda.WIDEST else layer_norm
        z = norm.run(LayerNormCall(z, weight, bias, call.eps))
    return call.shaped(z)


CUDA = cuda.implementation(run)
