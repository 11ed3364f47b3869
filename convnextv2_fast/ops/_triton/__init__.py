"""What the Triton kernels of all ops share. This file says whether they can run; it does not import Triton.

`chip` knows the device, `launch` starts kernels, `activation` and `group_sums` are device code.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable

import torch

from ...dispatch import Implementation, Spec

OLDEST = (3, 6)
# True once the kernels have passed the device tests on a GPU; until then they run only when asked for.
AUTOMATIC = False
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _why_not() -> str | None:
    """Why Triton's kernels cannot run in this installation; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; with an NVIDIA or AMD GPU: pip install triton"
    for package in ("triton", "pytorch-triton", "pytorch-triton-rocm"):
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < OLDEST:
            return f"Triton {version} is too old; install {'.'.join(map(str, OLDEST))} or newer"
        return None
    return None


_MISSING = _why_not()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def why_not() -> str | None:
    """Why no Triton kernel can run in this installation, in one sentence; None if one can."""
    return _MISSING


def reasons(spec: Spec) -> list[str]:
    """Why a Triton kernel cannot run this call, a sentence each."""
    found = []
    if _MISSING is not None:
        found.append(_MISSING)
    if spec.device == "cpu":
        if not INTERPRETED:
            found.append(
                "its kernels run on GPU tensors, these are on cpu (TRITON_INTERPRET=1 interprets them, slowly)"
            )
    elif spec.device != "cuda":
        found.append(f"its kernels run on NVIDIA and AMD GPUs, these tensors are on {spec.device}")
    elif not torch.cuda.is_available():
        found.append("torch sees no GPU")
    elif torch.version.hip is None and torch.cuda.get_device_capability() < (8, 0):
        found.append("its kernels need a GPU of compute capability 8.0 or newer")
    if spec.dtype not in DTYPES:
        found.append(f"its kernels take float32, float16 and bfloat16, not {str(spec.dtype).removeprefix('torch.')}")
    return found


def implementation(run: object, notes: Callable[[Spec], list[str]] | None = None) -> Implementation:
    """The Triton entry of an op's list; `run` has the signature of the op's reference and is differentiable."""
    return Implementation("triton", run, reasons, AUTOMATIC, notes)
