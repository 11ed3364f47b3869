"""LayerNorm on NVIDIA GPUs: csrc/cuda/layer_norm."""

from torch import Tensor

from .._shared import cuda
from . import autograd
from .call import NATIVE, LayerNormCall


def run(call: LayerNormCall) -> Tensor:
    return autograd.run(NATIVE, call)


CUDA = cuda.implementation(run)
