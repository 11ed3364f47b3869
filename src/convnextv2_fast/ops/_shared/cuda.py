"""What the CUDA C++ implementations of all ops share: may they run, and the entry in an op's list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ... import library, preferences
from ...spec import Implementation, Spec

WIDEST = 8192  # channels: LayerNorm's parameters fit shared memory
NORMALISED = ("layer_norm", "dwconv_layer_norm", "patch_conv", "block")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
PIECE = 256  # bytes: where a piece of an operator's memory may begin
# Where the operators' implementations are registered. The tests' emulation registers them for "cpu" and sets this.
DEVICE = "cuda"

# Which kernel convolves 16-bit dense planes: "fma" multiplies and adds in float32, "mma" runs on the tensor cores.
DWCONV_ENVIRONMENT = "CONVNEXTV2_FAST_DWCONV"
DWCONV_KERNELS = ("auto", "fma", "mma")


def bytes_of(pieces: Iterable[int]) -> int:
    """The size of a memory that has pieces of so many bytes, see `Pieces` in csrc/torch/products_cuda.h."""
    total = 0
    for size in pieces:
        total = (total + PIECE - 1) // PIECE * PIECE + size
    return total


def _dwconv_kernel() -> str:
    value = os.environ.get(DWCONV_ENVIRONMENT) or "auto"
    if value not in DWCONV_KERNELS:
        raise ValueError(f"{DWCONV_ENVIRONMENT} must be one of {', '.join(DWCONV_KERNELS)}, not {value!r}")
    return value


DWCONV = _dwconv_kernel()


def tensor_cores() -> bool:
    """Whether the depthwise convolution runs on the tensor cores where it can."""
    if DWCONV != "auto":
        return DWCONV == "mma"
    return DEVICE == "cuda" and preferences.dwconv_kernel() == "mma"


def reasons(spec: Spec) -> list[str]:
    """Why the CUDA kernels cannot run this call, a sentence each."""
    found = []
    missing = library.why_not("cuda")
    if DEVICE == "cuda" and missing is not None:
        found.append(missing)
    if spec.device != DEVICE:
        found.append(f"its kernels run on {DEVICE} tensors, these are on {spec.device}")
    if spec.dtype not in DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    if spec.op in NORMALISED and spec.channels > WIDEST:
        found.append(f"its kernels take up to {WIDEST} channels, not {spec.channels}")
    if found or DEVICE != "cuda":
        return found
    if not torch.cuda.is_available():
        return ["torch sees no CUDA device"]
    if not library.cuda_code_for(library.capability(spec.device_index)):
        archs = library.build_info().get("cuda_archs")
        return [f"_C_cuda.so has code for {archs}, not for this GPU; rebuild with TORCH_CUDA_ARCH_LIST set for it"]
    return []


def implementation(run: Callable[[Any], Tensor], notes: Callable[[Spec], list[str]] | None = None) -> Implementation:
    """The CUDA entry of an op's list; `run(call)` is differentiable."""
    return Implementation("cuda", run, reasons, notes=notes)
