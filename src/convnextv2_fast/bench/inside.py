"""What measurements need of the ops beyond their public functions: which kernel runs, and which weights are packed."""

from __future__ import annotations

from torch import Tensor

from ..ops._dwconv import cuda as dwconv_cuda
from ..ops._dwconv import triton as dwconv_triton
from ..ops._dwconv.call import Kernels
from ..ops._shared import cuda, packed
from ..ops._shared.checks import float_taps, taps


def use_dwconv_kernel(name: str) -> None:
    """Chooses the CUDA backend's depthwise convolution from now on: "fma", "mma" (tensor cores) or "auto"."""
    cuda.DWCONV = name


def depthwise(backend: str, weight: Tensor) -> tuple[Kernels, Tensor]:
    """The kernels of a backend, "cuda" or "triton", and the weight `[C, 1, 7, 7]` as they take it."""
    if backend == "cuda":
        return dwconv_cuda.KERNELS, float_taps(weight)
    return dwconv_triton.KERNELS, taps(weight).contiguous()


def hold_packed(on: bool) -> None:
    """Whether the CPU backend holds packed copies of weights, as CONVNEXTV2_FAST_PREPACK says for the whole process."""
    packed.enabled = on


def forget_packed() -> None:
    """Drops all packed copies."""
    packed.clear()


def packed_bytes() -> int:
    """The size of all packed copies."""
    return packed.held_bytes()
