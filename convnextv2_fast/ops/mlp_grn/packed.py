"""Weights of mlp_grn in the order the CPU kernels read them, packed once for as long as they do not change.

A copy lives as long as the tensor it was made of, and is made anew when a tensor was written to in place
(`Tensor._version`) or its memory replaced. Writes through `.data` leave the version alone: for those the kernel
compares a sample of the values, see `stale` in csrc/cpu/mlp_grn/common.h.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from torch import Tensor

from ... import library

ENVIRONMENT = "CONVNEXTV2_FAST_PREPACK"  # 0: no copies are kept

enabled = os.environ.get(ENVIRONMENT, "1") != "0"
_kept: dict[int, tuple[Any, tuple[Any, ...], Tensor]] = {}


def pack(w1: Tensor, b1: Tensor, beta: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """A new copy; float32, of a size that depends on the instruction set."""
    return torch.ops.convnextv2_fast.mlp_grn_cpu_pack.default(w1, b1, beta, w2, b2)


def of(w1: Tensor, b1: Tensor, beta: Tensor, w2: Tensor, b2: Tensor) -> Tensor | None:
    """The copy kept of these weights, made if there is none; None where none can be kept."""
    weights = (w1, b1, beta, w2, b2)
    if not enabled or any(w.is_inference() for w in weights):  # those count no versions
        return None
    state = (library.cpu_isa(), *((w.data_ptr(), w._version) for w in weights))
    key = id(w1)
    kept = _kept.get(key)
    if kept is not None and kept[0]() is w1 and kept[1] == state:
        return kept[2]
    copy = pack(*weights)
    _kept[key] = (weakref.ref(w1, lambda _: _kept.pop(key, None)), state, copy)
    return copy


def clear() -> None:
    """Forgets all copies."""
    _kept.clear()


def kept_bytes() -> int:
    """Of all copies."""
    return sum(4 * copy.numel() for _, _, copy in _kept.values())
