"""Depthwise convolution on NVIDIA GPUs: csrc/cuda/dwconv. It has two sets of kernels: of multiply-adds in float32, and
of the tensor cores ("mma")."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import library
from ...spec import Spec
from .._shared import cuda
from .._shared.checks import float_taps
from . import autograd
from .call import NATIVE, DwconvCall, Kernels, operators

MMA = operators("dwconv_mma")


def takes_mma(dtype: torch.dtype, channels: int, dense: bool, device: int | None = None) -> bool:
    """Whether the tensor cores' kernels can run a call: 16-bit activations of a dense plane whose number of channels is
    a multiple of 8, on compute capability 8.0 and newer. The same rule as `takes_mma` in csrc/cuda/dwconv/dwconv.h.

    Args:
        device: the GPU's index; None: the current one.
    """
    able = dense and dtype.itemsize == 2 and channels % 8 == 0
    return able and (cuda.DEVICE != "cuda" or library.capability(device) >= (8, 0))


def takes_mma_of(spec: Spec) -> bool:
    """:func:`takes_mma` for a call that is described."""
    return takes_mma(spec.dtype, spec.channels, spec.layout == "dense", spec.device_index)


def uses_mma(x: Tensor, site_map: Tensor | None) -> bool:
    """Whether the tensor cores' kernels run x `[..., C]`: they can, and they are wanted (`cuda.tensor_cores`)."""
    return cuda.tensor_cores() and takes_mma(x.dtype, x.shape[-1], site_map is None, x.device.index)


def forward(x: Tensor, kernel: Tensor, bias: Tensor | None, *sites: Any) -> Tensor:
    return (MMA if uses_mma(x, sites[3]) else NATIVE).forward(x, kernel, bias, *sites)


def backward(
    dy: Tensor, x: Tensor, kernel: Tensor, wants_dx: bool, wants_dparams: bool, *sites: Any
) -> tuple[Tensor | None, Tensor | None]:
    kernels = MMA if uses_mma(x, sites[3]) else NATIVE
    return kernels.backward(dy, x, kernel, wants_dx, wants_dparams, *sites)


KERNELS = Kernels(forward, backward)


def run(call: DwconvCall) -> Tensor:
    return autograd.run(KERNELS, call, float_taps(call.kernel))


def notes(spec: Spec) -> list[str]:
    """The line of `explain` that says which of the kernels runs."""
    if cuda.tensor_cores() and takes_mma_of(spec):
        return ["the convolution runs on the tensor cores"]
    return ["the convolution runs in float32 multiply-adds"]


CUDA = cuda.implementation(run, notes)
