"""Patch convolution and its norms on NVIDIA GPUs, as one operator for each direction: csrc/torch/patch_conv_cuda.cpp
calls the kernels of csrc/cuda and the framework's matrix products one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from .._layer_norm import reference as layer_norm_reference
from .._layer_norm.call import LayerNormCall
from .._shared import cuda
from .._shared.checks import rows_of
from . import cuda_autograd
from .call import Norm, PatchConvCall
from .cuda_autograd import Options

_NONE: Norm = (None, None)


def run(call: PatchConvCall) -> Tensor:
    maps = call.x.ndim == 4 and call.layout is None
    x, weight = call.x.contiguous() if maps else rows_of(call.x), dense(call.weight)
    after = call.norm_after
    weight_after, bias_after = after
    wide = weight_after is not None and weight_after.shape[0] > cuda.WIDEST
    if wide:  # than the kernels' rows: it is left to PyTorch
        after = _NONE
    y = cuda_autograd.run(Options(call.eps, False, call.gather), x, weight, call.bias, *call.norm_before, *after)
    if wide and weight_after is not None and bias_after is not None:
        y = layer_norm_reference.run(LayerNormCall(y, weight_after, bias_after, call.eps))
    return y


def dense(weight: Tensor) -> Tensor:
    """The weight as the operators take it."""
    if weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last):
        return weight
    return weight.contiguous()


CUDA = cuda.implementation(run)
