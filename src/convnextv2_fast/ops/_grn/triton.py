"""GRN on Triton kernels, which are imported at the first call."""

from typing import Any

from torch import Tensor

from .. import _triton
from . import autograd
from .call import GrnCall, operators


def _forward(*args: Any) -> Any:
    from .triton_kernels import forward

    return forward(*args)


def _backward(*args: Any) -> Any:
    from .triton_kernels import backward

    return backward(*args)


KERNELS = operators("triton_", _forward, _backward)


def run(call: GrnCall) -> Tensor:
    return autograd.run(KERNELS, call)


TRITON = _triton.implementation(run)
