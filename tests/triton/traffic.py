"""Counts what interpreted kernels read and write: an estimate of memory traffic without a GPU.

`unique`: the bytes of activations that each launch touches, each once for reads and once for writes: what goes to the
device's memory if re-reads within a launch hit a cache. `issued`: all that its loads and stores ask for, re-reads
included. Products left to the library are not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton.runtime.interpreter as interpreter
from torch import Tensor

from convnextv2_fast.ops._triton.launch import intercept


@dataclass
class Traffic:
    """Bytes of activations, and bytes of everything else (weights, statistics), `unique` each."""

    unique: int = 0
    issued: int = 0
    other: int = 0
    _reads: list[np.ndarray] = field(default_factory=list)
    _writes: list[np.ndarray] = field(default_factory=list)

    def _settle(self, ranges: list[tuple[int, int]]) -> None:
        for addresses in (self._reads, self._writes):
            if not addresses:
                continue
            every = np.concatenate(addresses)
            distinct, inverse_count = np.unique(every, return_counts=True)
            inside = np.zeros(distinct.shape, bool)
            for begin, end in ranges:
                inside |= (distinct["at"] >= begin) & (distinct["at"] < end)
            size = distinct["size"].astype(np.int64)
            self.unique += int(size[inside].sum())
            self.issued += int((size * inverse_count)[inside].sum())
            self.other += int(size[~inside].sum())
            addresses.clear()


def _record(into: list[np.ndarray], pointers: Any, mask: Any) -> None:
    live = np.broadcast_to(mask.data, pointers.data.shape)
    at = pointers.data[live]
    found = np.empty(at.shape, dtype=[("at", np.uint64), ("size", np.uint8)])
    found["at"], found["size"] = at, pointers.get_element_ty().primitive_bitwidth // 8
    into.append(found.ravel())


@contextlib.contextmanager
def watch(rows: set[int]) -> Iterator[Traffic]:
    """Counts within the block. Activations are floating-point arguments of two dimensions and `rows` rows."""
    found = Traffic()
    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def watched_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        _record(found._reads, pointers, mask)
        return load(self, pointers, mask, *rest)

    def watched_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        _record(found._writes, pointers, mask)
        return store(self, pointers, value, mask, *rest)

    def hook(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        # The interpreter copies arguments; on the CPU storage.cpu() is the storage itself.
        kernel[grid](*args, **options)
        active = [a for a in args if isinstance(a, Tensor) and a.is_floating_point() and a.ndim == 2]
        ranges = [(a.data_ptr(), a.data_ptr() + a.numel() * a.element_size()) for a in active if a.shape[0] in rows]
        found._settle(ranges)

    builder.create_masked_load, builder.create_masked_store = watched_load, watched_store
    try:
        with intercept(hook):
            yield found
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
