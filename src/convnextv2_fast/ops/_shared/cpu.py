"""What the CPU C++ implementations of all ops share: may they run, and the entry in an op's list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import library
from ...spec import Implementation, Spec

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def reasons(spec: Spec) -> list[str]:
    """Why the CPU kernels cannot run this call, a sentence each."""
    found = []
    missing = library.why_not("cpu")
    if missing is not None:
        found.append(missing)
    if spec.device != "cpu":
        found.append(f"its kernels run on cpu tensors, these are on {spec.device}")
    if spec.dtype not in DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    return found


def implementation(run: Callable[[Any], Tensor], notes: Callable[[Spec], list[str]] | None = None) -> Implementation:
    """The CPU entry of an op's list; `run(call)` is differentiable."""
    return Implementation("cpu", run, reasons, notes=notes)
