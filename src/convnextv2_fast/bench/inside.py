"""What measurements need of the ops beyond their public functions: which kernel runs, and what is kept packed."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor

from ..ops._shared import cuda, packed
from ..ops._shared.checks import taps


def use_dwconv_kernel(name: str) -> None:
    """Chooses the CUDA backend's depthwise convolution from now on: "fma", "mma" (tensor cores) or "auto"."""
    cuda.DWCONV = name


def depthwise(backend: str, weight: Tensor) -> tuple[SimpleNamespace, Tensor]:
    """The kernels of a backend, "cuda" or "triton", with `forward` and `backward` on rows `[T, C]`, and the weight
    `[C, 1, 7, 7]` as they take it."""
    if backend == "cuda":
        from ..ops._dwconv.native import KERNELS

        return KERNELS, taps(weight).float().contiguous()
    from ..ops._dwconv.triton import KERNELS as TRITON

    return TRITON, taps(weight).contiguous()


def keep_packed(on: bool) -> None:
    """Whether the CPU backend keeps packed copies of weights, as CONVNEXTV2_FAST_PREPACK says for the whole process."""
    packed.enabled = on


def forget_packed() -> None:
    """Drops all packed copies."""
    packed.clear()


def packed_bytes() -> int:
    """The size of all packed copies."""
    return packed.held_bytes()
