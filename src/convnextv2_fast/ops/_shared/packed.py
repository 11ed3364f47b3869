"""Weights in the order the CPU kernels read them, packed once for as long as they do not change.

A copy lives as long as the tensor it was made of, and is made anew when a tensor was written to in place
(`Tensor._version`) or its memory replaced. Writes through `.data` leave the version alone: for those the kernel
compares a sample of the values, see csrc/cpu/common/packed.h, and returns a fresh copy for :func:`replace`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import library

ENVIRONMENT = "CONVNEXTV2_FAST_PREPACK"  # 0: no copies are held

enabled = os.environ.get(ENVIRONMENT, "1") != "0"


class _Copy(NamedTuple):
    owner: Any  # a weak reference to the tensor whose lifetime decides
    state: list[Any]  # what the copy was made of
    packed: Tensor


_copies: dict[int, _Copy] = {}  # entries are replaced whole, so that other threads see an old copy or a new one
_lock = threading.RLock()  # a thread that holds it may collect garbage, and with it the owner of a copy


def in_pairs(dtype: torch.dtype) -> bool:
    """Whether weights are packed as pairs of bfloat16 for activations of this dtype: two instruction sets want that."""
    return dtype is torch.bfloat16 and library.cpu_isa() in ("avx512_bf16", "amx")


def copy_of(
    pack: Callable[..., Tensor], owner: Tensor, *tensors: Tensor | None, options: tuple[Any, ...] = ()
) -> Tensor | None:
    """The packed copy of `tensors`, made by `pack(*tensors, *options)` and held, one for each `owner` among them.

    None if no copy can be held: tensors made in inference mode have no version counter."""
    if not enabled:
        return None
    state: list[Any] = [library.cpu_isa(), pack, options, owner.shape]
    try:
        for t in tensors:
            if t is not None:
                state += (t.data_ptr(), t._version)
    except RuntimeError:  # of `_version`
        if any(t is not None and t.is_inference() for t in tensors):
            return None
        raise
    lasting = _lasting(owner)
    key = id(lasting)
    held = _copies.get(key)
    if held is not None and held.owner() is lasting and held.state == state:
        return held.packed
    packed = pack(*tensors, *options)
    with _lock:
        _copies[key] = _Copy(weakref.ref(lasting, lambda _: _copies.pop(key, None)), state, packed)
    return packed


def replace(stale: Tensor | None, repacked: Tensor) -> None:
    """Holds `repacked` in the place of the copy `stale`.

    `repacked` is what a kernel returned beside its result: empty where the copy still was that of its tensors."""
    if repacked.numel() == 0:
        return
    with _lock:
        for key, held in tuple(_copies.items()):
            if held.packed is stale:
                _copies[key] = held._replace(packed=repacked)


def _lasting(t: Tensor) -> Tensor:
    """The tensor whose lifetime decides: a parameter, not a temporary view of it (a 1x1 convolution as a matrix)."""
    base = t._base if t._is_view() else None
    return t if base is None or base.numel() != t.numel() else base


def clear() -> None:
    """Forgets all copies."""
    _copies.clear()


def held_bytes() -> int:
    """The size of all copies in bytes."""
    return sum(4 * held.packed.numel() for held in _copies.values())
