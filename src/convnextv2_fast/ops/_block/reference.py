"""The block in plain PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...layouts import Layout
from .._dwconv_layer_norm.reference import dwconv_layer_norm
from .._mlp_grn.reference import mlp_grn
from .call import BlockWeights


def block(
    x: Tensor,
    *weights: Any,
    layer_scale: Tensor | None = None,
    layout: Layout | None = None,
    rows_per_group: int | Tensor | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.block` in plain PyTorch, without its checks and without drop path."""
    w = BlockWeights._make((*weights, layer_scale))
    first: tuple[Any, ...] = w[:4]
    second: tuple[Any, ...] = w[4:10]
    y = mlp_grn(dwconv_layer_norm(x, *first, layout=layout), *second, rows_per_group=rows_per_group)
    return x + (y if layer_scale is None else y * layer_scale)
