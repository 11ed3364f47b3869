"""LayerNorm on the CPU: csrc/cpu/layer_norm."""

from torch import Tensor

from .._shared import cpu
from . import autograd
from .call import NATIVE, LayerNormCall


def run(call: LayerNormCall) -> Tensor:
    return autograd.run(NATIVE, call)


CPU = cpu.implementation(run)
