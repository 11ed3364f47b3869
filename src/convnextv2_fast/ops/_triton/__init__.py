"""What the Triton kernels of all ops share. This file says what they can run; it does not import Triton.

`chip` knows the device, `launch` starts kernels, `activation` and `group_sums` are device code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...spec import Implementation, Spec

# The kernels have passed the device tests on an NVIDIA GPU. On AMD's, and in the interpreter, they run when asked for.
AUTOMATIC = torch.version.hip is None and not library.TRITON_INTERPRETED
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reasons(spec: Spec) -> list[str]:
    """Why a Triton kernel cannot run this call, a sentence each."""
    found = []
    missing = library.triton_why_not()
    if missing is not None:
        found.append(missing)
    if spec.device == "cpu":
        if not library.TRITON_INTERPRETED:
            found.append(
                "its kernels run on GPU tensors, these are on cpu (TRITON_INTERPRET=1 interprets them, slowly)"
            )
    elif spec.device != "cuda":
        found.append(f"its kernels run on NVIDIA and AMD GPUs, these tensors are on {spec.device}")
    elif not torch.cuda.is_available():
        found.append("torch sees no GPU")
    elif torch.version.hip is None and library.capability(spec.device_index) < (8, 0):
        found.append("its kernels need a GPU of compute capability 8.0 or newer")
    if spec.dtype not in DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    return found


def tf32(x: Tensor) -> bool:
    """Whether products of x may round their operands to TF32: float32 on NVIDIA, where torch allows it."""
    return x.dtype == torch.float32 and torch.version.hip is None and torch.backends.cuda.matmul.allow_tf32


def implementation(run: Callable[[Any], Tensor], notes: Callable[[Spec], list[str]] | None = None) -> Implementation:
    """The Triton entry of an op's list; `run(call)` is differentiable."""
    return Implementation("triton", run, reasons, AUTOMATIC, notes)
