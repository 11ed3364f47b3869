"""Where the k x k blocks of a patch convolution lie, in the form the kernels take.

Every form is one gather: result row t reads k*k source rows of x `[S, Cin]`, where `table` says:
  * None: x is `[N, H, W, Cin]`, t counts the result's plane `[N, H//k, W//k]`;
  * int64 `[T']`: the same, t is at position `table[t]` of that plane;
  * int64 `[T', k*k]`: the source rows themselves (ky, kx order), -1 where absent.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...layouts import Layout, PatchLayout


class Gather(NamedTuple):
    """Where result rows lie in x (see the head of this file), with the number of result `rows` and the `height` and
    `width` of x's plane."""

    table: Tensor | None
    rows: int
    height: int
    width: int
    k: int

    @classmethod
    def of(cls, x: Tensor, k: int, layout: Layout | None) -> Gather:
        """Makes it from x and the layout that :func:`convnextv2_fast.ops.patch_conv` was given."""
        if x.ndim == 4:
            n, h, w, _ = x.shape
            if layout is None or layout.kind == "dense":
                return cls(None, n * (h // k) * (w // k), h, w, k)
            return cls(layout.index.contiguous(), layout.rows, h, w, k)
        assert layout is not None
        if isinstance(layout, PatchLayout) and layout.s % k == 0:  # tile-local: patches are images of edge s
            return cls(None, layout.rows // (k * k), layout.s, layout.s, k)
        n, h, w = layout.shape
        if layout.kind == "dense":
            return cls(None, n * (h // k) * (w // k), h, w, k)
        children = layout.coarsen(k)[1]
        assert children is not None
        return cls(children.contiguous(), children.shape[0], h, w, k)

    @property
    def covers(self) -> bool:
        """Whether every source row belongs to a result row."""
        if self.table is not None:
            return self.table.ndim == 2
        return self.height % self.k == 0 and self.width % self.k == 0


GATHER = "Tensor? table, SymInt rows, SymInt height, SymInt width, int k"  # Gather in a schema
