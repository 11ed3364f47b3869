"""Convolution and LayerNorm on NVIDIA GPUs: csrc/cuda/dwconv. One kernel, or two so that the convolution can use the
tensor cores."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...spec import Spec
from .._dwconv import cuda as dwconv
from .._layer_norm.call import NATIVE as LAYER_NORM
from .._shared import cuda
from .._shared.checks import float_taps, rows_of
from . import autograd
from .call import DwconvLayerNormCall, Kernels, forward, forward_train

FUSED = Kernels(forward, forward_train, LAYER_NORM.backward, dwconv.KERNELS)


def _apart_train(
    x: Tensor, kernel: Tensor, bias: Tensor | None, ln_weight: Tensor, ln_bias: Tensor, eps: float, *sites: Any
) -> tuple[Tensor, Tensor]:
    z = dwconv.MMA.forward(x, kernel, bias, *sites)
    return LAYER_NORM.forward(z, ln_weight, ln_bias, eps)[0], z


def _apart(*args: Any) -> Tensor:
    return _apart_train(*args)[0]


APART = Kernels(_apart, _apart_train, LAYER_NORM.backward, dwconv.KERNELS)


def run(call: DwconvLayerNormCall) -> Tensor:
    rows = rows_of(call.x)
    kernels = APART if dwconv.uses_mma(rows, call.sites.site_map) else FUSED
    return autograd.run(kernels, call, rows, float_taps(call.weight))


def notes(spec: Spec) -> list[str]:
    """The lines of `explain` that say which kernels run."""
    apart = cuda.tensor_cores() and dwconv.takes_mma_of(spec)
    how = "LayerNorm is a kernel of its own" if apart else "LayerNorm is in the same kernel"
    return [*dwconv.notes(spec), how]


CUDA = cuda.implementation(run, notes)
