"""Where rows sit in the image plane, in the form the kernels of the depthwise convolution take."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ...layouts import Layout


class Sites(NamedTuple):
    """Where rows sit: the plane's height and width and, for sparse layouts, both maps between rows and sites."""

    h: int
    w: int
    index: Tensor | None = None  # type: ignore[assignment]  # int64 [T]: the site of each row
    site_map: Tensor | None = None  # int32 [N, H, W]: the row of each site or -1

    @classmethod
    def of(cls, layout: Layout) -> Sites:
        _, h, w = layout.shape
        return cls(h, w) if layout.kind == "dense" else cls(h, w, layout.index, layout.site_map)

    @classmethod
    def around(cls, x: Tensor, layout: Layout | None) -> Sites:
        """Makes the sites of a dense map `[N, H, W, C]`, or of rows `[T, C]` with their layout."""
        if x.ndim == 4:
            return cls(x.shape[1], x.shape[2])
        assert layout is not None
        return cls.of(layout)


SITES = "SymInt h, SymInt w, Tensor? index, Tensor? site_map"  # Sites in a schema
PLANE = "SymInt h, SymInt w, Tensor? site_map"  # what C++ takes of them
