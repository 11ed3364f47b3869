"""GRN on the CPU: csrc/cpu/grn."""

from torch import Tensor

from .._shared import cpu
from . import autograd
from .call import NATIVE, GrnCall


def run(call: GrnCall) -> Tensor:
    return autograd.run(NATIVE, call)


CPU = cpu.implementation(run)
