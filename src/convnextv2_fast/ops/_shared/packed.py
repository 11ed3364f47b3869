"""Weights in the order the CPU kernels read them, packed once for as long as they do not change.

A copy lives as long as the tensor it was made of, and is made anew when a tensor was written to in place
(`Tensor._version`) or its memory replaced. Writes through `.data` leave the version alone: for those the kernel
compares a sample of the values (csrc/cpu/common/packed.h), packs anew and returns that copy, for :func:`replace`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import library

ENVIRONMENT = "CONVNEXTV2_FAST_PREPACK"  # 0: no copies are kept

enabled = os.environ.get(ENVIRONMENT, "1") != "0"
_copies: dict[int, tuple[Any, tuple[Any, ...], Tensor]] = {}
_lock = threading.RLock()  # of _copies; reentrant: a weak reference's callback may run while it is held


def in_pairs(dtype: torch.dtype) -> bool:
    """Whether weights are packed as pairs of bfloat16 for activations of this dtype: two instruction sets want that."""
    return dtype is torch.bfloat16 and library.cpu_isa() in ("avx512_bf16", "amx")


def copy_of(
    pack: Callable[..., Tensor], first: Tensor, *others: Tensor | None, options: tuple[Any, ...] = ()
) -> Tensor | None:
    """The packed copy of these tensors, made by `pack(first, *others, *options)` and kept, one for each `first`.

    None if no copy can be kept: tensors made in inference mode have no version counter."""
    if not enabled or first.is_inference():
        return None
    state: tuple[Any, ...] = (library.cpu_isa(), pack, options, first.shape, first.data_ptr(), first._version)
    owner = _owner(first)
    for t in others:
        if t is not None:
            if t.is_inference():
                return None
            state += (t.data_ptr(), t._version)
    key = id(owner)
    kept = _copies.get(key)
    if kept is not None and kept[0]() is owner and kept[1] == state:
        return kept[2]
    packed = pack(first, *others, *options)
    with _lock:
        _copies[key] = (weakref.ref(owner, lambda _: _copies.pop(key, None)), state, packed)
    return packed


def replace(stale: Tensor | None, repacked: Tensor) -> None:
    """Keeps `repacked` in the place of the copy `stale`.

    `repacked` is what a kernel returned beside its result: empty where the copy still was that of its tensors."""
    if repacked.numel() == 0:
        return
    with _lock:
        for key, (owner, state, packed) in tuple(_copies.items()):
            if packed is stale and key in _copies:
                _copies[key] = (owner, state, repacked)


def _owner(t: Tensor) -> Tensor:
    """The tensor whose lifetime decides: a parameter, not a temporary view of it (a 1x1 convolution as a matrix)."""
    base = t._base if t._is_view() else None
    return t if base is None or base.numel() != t.numel() else base


def clear() -> None:
    """Forgets all copies."""
    _copies.clear()


def held_bytes() -> int:
    """The size of all copies in bytes."""
    return sum(4 * packed.numel() for _, _, packed in _copies.values())
