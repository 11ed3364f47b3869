"""Convolution and LayerNorm on the CPU: csrc/cpu/dwconv."""

from torch import Tensor

from .._dwconv.call import NATIVE as DWCONV
from .._layer_norm.call import NATIVE as LAYER_NORM
from .._shared import cpu
from .._shared.checks import float_taps, rows_of
from . import autograd
from .call import DwconvLayerNormCall, Kernels, forward, forward_train

KERNELS = Kernels(forward, forward_train, LAYER_NORM.backward, DWCONV)


def run(call: DwconvLayerNormCall) -> Tensor:
    return autograd.run(KERNELS, call, rows_of(call.x), float_taps(call.weight))


CPU = cpu.implementation(run)
