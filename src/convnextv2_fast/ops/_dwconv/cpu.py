"""Depthwise convolution on the CPU: csrc/cpu/dwconv."""

from torch import Tensor

from .._shared import cpu
from .._shared.checks import float_taps
from . import autograd
from .call import NATIVE, DwconvCall


def run(call: DwconvCall) -> Tensor:
    return autograd.run(NATIVE, call, float_taps(call.kernel))


CPU = cpu.implementation(run)
