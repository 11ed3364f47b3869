"""GRN on Triton kernels, which are imported at the first call."""

from torch import Tensor

from .. import _triton
from . import autograd
from .call import GrnCall, operators


def _kernels():
    from . import triton_kernels

    return triton_kernels


KERNELS = operators("triton_", lambda *args: _kernels().forward(*args), lambda *args: _kernels().backward(*args))


def run(call: GrnCall) -> Tensor:
    return autograd.run(KERNELS, call)


TRITON = _triton.implementation(run)
