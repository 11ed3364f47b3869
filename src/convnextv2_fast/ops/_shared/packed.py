"""Weights in the order the CPU kernels read them, packed once for as long as they do not change.

A copy is held for the memory (the storage) of the weight it was made of, and goes with it. Whether it still is that of
its weights, the kernels see for themselves: each call digests every byte of them, see csrc/cpu/common/packed.h. A stale
copy is never written to: the kernel packs into new memory, which takes its place here. So it does not matter who writes
into a weight, or how, and a copy lives as long as a thread reads it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from ... import library

ENVIRONMENT = "CONVNEXTV2_FAST_PREPACK"  # 0: no copies are held

enabled = os.environ.get(ENVIRONMENT, "1") != "0"


class _Held(NamedTuple):
    """The copies made of weights in one storage, by what they are for."""

    storage: weakref.ref[torch.UntypedStorage]
    copies: dict[Hashable, Tensor]


_held: dict[int, _Held] = {}  # by the id of the storage
_lock = threading.RLock()  # a thread that holds it may collect garbage, and with it a storage


def in_pairs(dtype: torch.dtype) -> bool:
    """Whether weights are packed as pairs of bfloat16 for activations of this dtype: two instruction sets want that."""
    return dtype is torch.bfloat16 and library.cpu_isa() in ("avx512_bf16", "amx")


def run(
    forward: Callable[[Tensor | None], tuple[Tensor, ...]], pack: Callable[[], Tensor], owner: Tensor, *use: Hashable
) -> tuple[Tensor, ...]:
    """Calls `forward(copy)` with the copy that is held of a weight, which may be stale, or with a new one.

    Args:
        forward: an operator's call, given the packed weights, or None: pack them for this call. The last of its results
            is the copy to take the place of the one given, empty where that was fresh.
        pack: makes a copy.
        owner: the weight whose memory decides how long the copy is held.
        use: what the copy is for, beside the instruction set and the owner's shape: all that its size depends on.
    Returns:
        The other results of `forward`.
    """
    storage = _storage(owner) if enabled else None
    if storage is None:
        return forward(None)[:-1]
    slot = (*use, library.cpu_isa(), owner.storage_offset(), owner.shape, owner.stride())
    held = _held.get(id(storage))
    copy = None if held is None or held.storage() is not storage else held.copies.get(slot)
    if copy is None:
        copy = pack()
        _hold(storage, slot, copy)
    *results, repacked = forward(copy)
    if repacked.numel():
        _hold(storage, slot, repacked)
    return tuple(results)


def _storage(t: Tensor) -> torch.UntypedStorage | None:
    """The memory of a tensor; None for one that has none of its own, as under `torch.vmap`."""
    try:
        return t.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _hold(storage: torch.UntypedStorage, slot: Hashable, copy: Tensor) -> None:
    size = _bytes(copy)
    if size is None:
        return
    key = id(storage)
    with _lock:
        held = _held.get(key)
        if held is None or held.storage() is not storage:
            held = _held[key] = _Held(weakref.ref(storage, lambda _: _held.pop(key, None)), {})
        held.copies.pop(slot, None)
        # One storage may hold many weights, at places that change: the oldest copies go, when they are far more.
        most = 8 * storage.nbytes() + (1 << 20)
        while held.copies and size + sum(4 * c.numel() for c in held.copies.values()) > most:
            del held.copies[next(iter(held.copies))]
        held.copies[slot] = copy


def _bytes(copy: Tensor) -> int | None:
    """The size of a copy; None if it is none that can be held, as under `torch.vmap`."""
    return None if _storage(copy) is None else 4 * copy.numel()


def clear() -> None:
    """Forgets all copies."""
    _held.clear()


def held_bytes() -> int:
    """The size of all copies in bytes."""
    return sum(4 * copy.numel() for held in tuple(_held.values()) for copy in tuple(held.copies.values()))


def count() -> int:
    """How many copies are held."""
    return sum(len(held.copies) for held in tuple(_held.values()))
