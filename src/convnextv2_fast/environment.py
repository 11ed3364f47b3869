"""The environment variables of this library, in one place: what `env` and the documentation know of them."""

from __future__ import annotations

import os
from dataclasses import dataclass

PREFIX = "CONVNEXTV2_FAST_"


@dataclass(frozen=True)
class Variable:
    """One variable.

    Attributes:
        name: as in the environment.
        values: what may be set, the default first.
        read: when it is looked at.
        meaning: in a sentence or two.
    """

    name: str
    values: str
    read: str
    meaning: str


VARIABLES = (
    Variable(
        "CONVNEXTV2_FAST_BACKEND",
        "auto, cuda, triton, cpu, torch",
        "at each call; by torch.compile when it traces",
        "the backend of every op that has it; the argument `backend=` and `use_backend` come first",
    ),
    Variable(
        "CONVNEXTV2_FAST_CPU_ISA",
        "the CPU's best; scalar, avx2, avx512, avx512_bf16, amx",
        "at import",
        "the highest instruction set that the CPU library may use; the last two serve products of bfloat16 activations "
        "in the forward pass of `mlp_grn`",
    ),
    Variable(
        "CONVNEXTV2_FAST_PREPACK",
        "1, 0",
        "at import",
        "0: inference on a CPU packs weights at each call and keeps no packed copies",
    ),
    Variable(
        "CONVNEXTV2_FAST_DWCONV",
        "auto, fma, mma",
        "at import",
        "the CUDA kernels of the depthwise convolution on 16-bit dense planes: multiply-adds, or tensor cores with "
        "LayerNorm in a kernel of its own; auto takes mma",
    ),
    Variable(
        "CONVNEXTV2_FAST_AUTOTUNE",
        "0, 1",
        "at each call of a Triton kernel",
        "1: the tiles of Triton's kernels are timed on first use in place of the built-in table's",
    ),
    Variable(
        "CONVNEXTV2_FAST_CACHE",
        "convnextv2_fast in the user's cache folder; any folder",
        "when tiles are tuned",
        "where the tuned tiles are kept",
    ),
    Variable(
        "CONVNEXTV2_FAST_QUIET",
        "0, 1",
        "at import; by `check`",
        "1: an installation without native kernels for the device at hand is intended: importing it does not warn, and "
        "`check` does not fail because of it",
    ),
    Variable(
        "CONVNEXTV2_FAST_CPU",
        "auto, 0, 1",
        "when building",
        "the CPU library: built where it can be, never, or built or else the build fails",
    ),
    Variable(
        "CONVNEXTV2_FAST_CUDA",
        "auto, 0, 1",
        "when building",
        "the CUDA library, likewise: auto builds it where torch is a CUDA build and nvcc is found",
    ),
    Variable(
        "CONVNEXTV2_FAST_TORCH",
        "found by itself; a folder such as .../site-packages/torch",
        "when building",
        "the torch package whose headers the native libraries are compiled with",
    ),
    Variable(
        "CONVNEXTV2_FAST_LOCAL_VERSION",
        "none; such as cu130",
        "when building",
        "the local version of the wheel",
    ),
)


def found() -> dict[str, str]:
    """The variables with this library's prefix that are set, by name; known ones or not."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}


def unknown() -> list[str]:
    """Those of :func:`found` that nothing reads: misspelt, most likely."""
    known = {variable.name for variable in VARIABLES}
    return [name for name in found() if name not in known]
