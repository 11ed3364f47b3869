"""The block in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ...layouts import Layout
from .._dwconv_layer_norm.reference import dwconv_layer_norm
from .._mlp_grn.reference import mlp_grn
from .call import BlockWeights


def block(
    x: Tensor,
    *weights: Tensor | None,
    layer_scale: Tensor | None = None,
    layout: Layout | None = None,
    rows_per_group: int | Tensor | None = None,
) -> Tensor:
    """:func:`convnextv2_fast.ops.block` in plain PyTorch, without its checks and without drop path."""
    w = BlockWeights(*weights, layer_scale)  # type: ignore[arg-type]
    u = dwconv_layer_norm(x, *w[:4], layout=layout)  # type: ignore[arg-type]
    y = mlp_grn(u, *w[4:10], rows_per_group=rows_per_group)  # type: ignore[arg-type]
    return x + (y if layer_scale is None else y * layer_scale)
