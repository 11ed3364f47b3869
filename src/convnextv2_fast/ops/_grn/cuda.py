"""GRN on NVIDIA GPUs: csrc/cuda/grn."""

from torch import Tensor

from .._shared import cuda
from . import autograd
from .call import NATIVE, GrnCall


def run(call: GrnCall) -> Tensor:
    return autograd.run(NATIVE, call)


CUDA = cuda.implementation(run)
